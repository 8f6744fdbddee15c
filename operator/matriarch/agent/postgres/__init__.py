"""One PostgreSQL server of this pod: its data directory, its processes, its settings, its part in an election."""
