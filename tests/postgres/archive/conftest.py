"""The archive's tests share servers, tools and the S3 server with those of backups."""

from __future__ import annotations

from tests.postgres.backup.conftest import s3server, short_folder, tools

__all__ = ["s3server", "short_folder", "tools"]
