"""A physical backup and a WAL archive become the first data of a cluster, or take the place of what it has."""
