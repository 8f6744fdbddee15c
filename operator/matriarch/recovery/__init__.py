"""A physical backup and a WAL archive become the first data of a new cluster."""
