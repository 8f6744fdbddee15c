"""Physical backups: the files of a data directory, read in place, with the WAL that makes them consistent."""
