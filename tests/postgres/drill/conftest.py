"""Drills share servers, tools and the S3 server with the tests of backups and of the archive."""

from __future__ import annotations

from tests.postgres.archive.conftest import place, store
from tests.postgres.backup.conftest import s3server, short_folder, source, tools

__all__ = ["place", "s3server", "short_folder", "source", "store", "tools"]
