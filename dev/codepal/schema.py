"""Applies CodePal's migrations the way its own tool does, so that a later `migrate` finds nothing to do.

Each folder of `migrations/` is one migration, applied once, in the order of its name and recorded in
`_prisma_migrations` with the SHA-256 of its file.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record] | Any

MIGRATIONS = Path(__file__).parent / "migrations"

HISTORY = """
CREATE TABLE IF NOT EXISTS "_prisma_migrations" (
    "id" VARCHAR(36) PRIMARY KEY NOT NULL,
    "checksum" VARCHAR(64) NOT NULL,
    "finished_at" TIMESTAMPTZ,
    "migration_name" VARCHAR(255) NOT NULL,
    "logs" TEXT,
    "rolled_back_at" TIMESTAMPTZ,
    "started_at" TIMESTAMPTZ NOT NULL DEFAULT now(),
    "applied_steps_count" INTEGER NOT NULL DEFAULT 0
)"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One folder of `migrations/`."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations, oldest first."""
    return [Migration(f.parent.name, f.read_text()) for f in sorted(MIGRATIONS.glob("*/migration.sql"))]


async def deploy(connection: Connection) -> list[str]:
    """Applies what is not applied yet, all of it or nothing; returns the names of what it applied.

    Raises ValueError when an applied migration's file was changed since.
    """
    applied = []
    async with connection.transaction():
        await connection.execute(HISTORY)
        rows = await connection.fetch('SELECT migration_name, checksum FROM "_prisma_migrations"')
        known = {row["migration_name"]: row["checksum"] for row in rows}
        for migration in migrations():
            if migration.name in known:
                if known[migration.name] != migration.checksum:
                    message = f"migration {migration.name} was changed after it had been applied; restore its file"
                    raise ValueError(message)
                continue
            await connection.execute(migration.sql)
            await connection.execute(
                'INSERT INTO "_prisma_migrations" (id, checksum, migration_name, finished_at, applied_steps_count)'
                " VALUES ($1, $2, $3, clock_timestamp(), 1)",
                str(uuid.uuid4()),
                migration.checksum,
                migration.name,
            )
            applied.append(migration.name)
    return applied
