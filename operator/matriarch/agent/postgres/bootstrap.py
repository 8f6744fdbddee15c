"""The roles and the database that a new cluster begins with.

Every statement can be run again: an agent that dies half way starts over. Passwords go to the server as verifiers.
"""

from __future__ import annotations

import os

import asyncpg

from matriarch.agent.postgres.outside import Outside
from matriarch.postgres.conninfo import CLONE_ROLE, REWIND_ROLE, STREAM_ROLE
from matriarch.postgres.outside import SOURCE_ROLE
from matriarch.postgres.pgbouncer import LOOKUP, LOOKUP_SCHEMA, POOLER_ROLE
from matriarch.postgres.scram import matches, verifier

BACKUP_ROLE = "matriarch_backup"

_ROLES = {
    STREAM_ROLE: "LOGIN REPLICATION",
    CLONE_ROLE: "LOGIN REPLICATION",
    REWIND_ROLE: "LOGIN",
    # pg_dump refuses tables with row security to anybody else; a physical backup keeps its WAL by a temporary slot
    BACKUP_ROLE: "LOGIN BYPASSRLS REPLICATION",
    POOLER_ROLE: "LOGIN",
    SOURCE_ROLE: "LOGIN REPLICATION",
}

# One verifier at a time, by its name, and none that leads to more than an application's rights.
_LOOKUP = (
    f"CREATE SCHEMA IF NOT EXISTS {LOOKUP_SCHEMA}",
    f"REVOKE ALL ON SCHEMA {LOOKUP_SCHEMA} FROM PUBLIC",
    f"GRANT USAGE ON SCHEMA {LOOKUP_SCHEMA} TO {POOLER_ROLE}",
    f"""
    CREATE OR REPLACE FUNCTION {LOOKUP}(login text) RETURNS TABLE (usename name, passwd text)
    LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog
    AS $$
        SELECT rolname, rolpassword FROM pg_authid
        WHERE rolname = login AND rolcanlogin AND NOT rolsuper AND NOT rolreplication
          AND rolname !~ '^matriarch_' AND (rolvaliduntil IS NULL OR rolvaliduntil > now())
    $$
    """,  # noqa: S608 - names of our own
    f"REVOKE ALL ON FUNCTION {LOOKUP}(text) FROM PUBLIC",
    f"GRANT EXECUTE ON FUNCTION {LOOKUP}(text) TO {POOLER_ROLE}",
)

# What pg_rewind calls on its source (PostgreSQL's documentation, pg_rewind, Notes).
_REWIND_FUNCTIONS = (
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)

# What a physical backup calls. Without pg_read_server_files, pg_read_file ends at the data directory, whose content the
# role reads anyway.
_BACKUP_FUNCTIONS = ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)", "pg_read_file(text)")


class Bootstrap(Outside):
    async def bootstrap_sql(
        self, database: str, owner: str, owner_password: str, superuser_password: str | None, *, timeout: float = 60.0
    ) -> None:
        """Makes roles, owner and database where they are missing, and sets passwords that differ.

        `superuser_password` None: nobody logs in as postgres by password.
        """
        async with self._sessions.new("bootstrap", timeout) as session:
            for role, rights in _ROLES.items():
                await _ensure_role(session, role, f"{rights} NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD NULL")
            for function in _REWIND_FUNCTIONS:
                await session.execute(
                    f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {REWIND_ROLE}, {SOURCE_ROLE}"
                )
            await session.execute(f"GRANT pg_read_all_data, pg_checkpoint TO {BACKUP_ROLE}")
            for function in _BACKUP_FUNCTIONS:
                await session.execute(f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {BACKUP_ROLE}")
            # Large objects know no right to read them all; and whoever can read them so could write them so.
            await session.execute(f"ALTER ROLE {BACKUP_ROLE} SET lo_compat_privileges = on")
            await session.execute(f"ALTER ROLE {BACKUP_ROLE} SET default_transaction_read_only = on")
            for statement in _LOOKUP:
                await session.execute(statement)
            await _ensure_role(session, owner, "LOGIN")
            await _ensure_password(session, owner, owner_password)
            await _ensure_password(session, "postgres", superuser_password)
            if not await session.fetchval("SELECT true FROM pg_database WHERE datname = $1", database):
                await session.execute(f"CREATE DATABASE {_name(database)} OWNER {_name(owner)}")
        # Rights on a catalog are each database's own; template1 hands them on to databases made later.
        for each in dict.fromkeys(("postgres", "template1", database)):
            async with self._sessions.new("bootstrap", timeout, database=each) as session:
                await session.execute(f"GRANT SELECT ON pg_catalog.pg_authid TO {BACKUP_ROLE}")


async def _ensure_role(session: asyncpg.Connection[asyncpg.Record], role: str, rights: str) -> None:
    exists = await session.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role)
    await session.execute(f"{'ALTER' if exists else 'CREATE'} ROLE {_name(role)} WITH {rights}")


async def _ensure_password(session: asyncpg.Connection[asyncpg.Record], role: str, password: str | None) -> None:
    stored = await session.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", role)
    if password is None:
        if stored is not None:
            await session.execute(f"ALTER ROLE {_name(role)} PASSWORD NULL")
    elif not matches(password, stored):
        await session.execute(f"ALTER ROLE {_name(role)} PASSWORD '{verifier(password, os.urandom(16))}'")


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
