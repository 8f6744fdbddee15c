"""What runs in a pooler's Pod: PgBouncer, and beside it a process that pauses it whenever the primary changes."""
