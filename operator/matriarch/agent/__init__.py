"""What runs inside a database pod: supervisor, heartbeat, agent."""
