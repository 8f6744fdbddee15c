"""The continuous WAL archive: a process beside the agent that stores what PostgreSQL has finished writing."""
