"""Roles as SQL that can be run on any server, again and again: what is missing is made, what is there stays as it is.

Own text in place of pg_dumpall, which can leave no role out, fails on the first one that exists and would set the
password of the target's own roles back (docs/decisions/backup-engine.md). A role that exists keeps its password: the
target's Secrets hold the current one, not the backup's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import asyncpg

from matriarch.backup.fingerprint import literal, quote
from matriarch.backup.server import Session

# The operator's own roles and PostgreSQL's belong to the server, not to the application.
_OURS = "rolname !~ '^pg_' AND rolname !~ '^matriarch_' AND rolname <> 'postgres'"
_ROLES = """
    SELECT oid, *, shobj_description(oid, 'pg_authid') AS comment FROM pg_catalog.{table} WHERE {ours}
    ORDER BY rolname COLLATE "C"
"""


@dataclass(frozen=True, slots=True)
class RolesText:
    sql: str
    passwords: bool  # False: this login may not read pg_authid


async def dump_roles(session: Session) -> RolesText:
    """Attributes, password verifiers, settings, comments and memberships of every role of the application."""
    try:
        async with session.transaction():  # a savepoint: a refusal must not end the caller's transaction
            roles = await session.fetch(_ROLES.format(table="pg_authid", ours=_OURS))
        passwords = True
    except asyncpg.InsufficientPrivilegeError:
        roles = await session.fetch(_ROLES.format(table="pg_roles", ours=_OURS))
        passwords = False
    settings: dict[int, list[str]] = {}
    for row in await session.fetch(
        "SELECT setrole, setconfig FROM pg_catalog.pg_db_role_setting WHERE setdatabase = 0"
    ):
        settings[row["setrole"]] = row["setconfig"]

    # Rights were granted to these inside the databases; a server without the operator needs the names to load them.
    names = await session.fetch("SELECT rolname FROM pg_catalog.pg_roles WHERE rolname ~ '^matriarch_' ORDER BY 1")
    parts = [_if_missing(n["rolname"], f"CREATE ROLE {quote(n['rolname'])} NOLOGIN;") for n in names]
    parts += [_create(role, settings.get(role["oid"], ()), passwords=passwords) for role in roles]
    parts.append(await _memberships(session))
    return RolesText("\n".join(("-- Roles. Those that exist stay as they are.\n", *parts)) + "\n", passwords)


def _create(role: asyncpg.Record, settings: list[str] | tuple[str, ...], *, passwords: bool) -> str:
    name = quote(role["rolname"])
    options = [
        word if role[column] else f"NO{word}"
        for column, word in (
            ("rolsuper", "SUPERUSER"),
            ("rolinherit", "INHERIT"),
            ("rolcreaterole", "CREATEROLE"),
            ("rolcreatedb", "CREATEDB"),
            ("rolcanlogin", "LOGIN"),
            ("rolreplication", "REPLICATION"),
            ("rolbypassrls", "BYPASSRLS"),
        )
    ]
    if role["rolconnlimit"] != -1:
        options.append(f"CONNECTION LIMIT {role['rolconnlimit']}")
    if passwords and role["rolpassword"] is not None:
        options.append(f"PASSWORD {literal(role['rolpassword'])}")
    if role["rolvaliduntil"] is not None:
        options.append(f"VALID UNTIL {literal(role['rolvaliduntil'].isoformat())}")
    statements = [f"CREATE ROLE {name} WITH {' '.join(options)};"]
    statements += [f"ALTER ROLE {name} SET {assignment(item)};" for item in settings]
    if role["comment"]:
        statements.append(f"COMMENT ON ROLE {name} IS {literal(role['comment'])};")
    return _if_missing(role["rolname"], *statements)


def _if_missing(role: str, *statements: str) -> str:
    body = "\n    ".join(statements)
    exists = f"SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal(role)}"
    return do_block(f"BEGIN\n  IF NOT EXISTS ({exists}) THEN\n    {body}\n  END IF;\nEND")


def do_block(body: str) -> str:
    """An anonymous block whose quotes nothing inside can end."""
    tag = "$matriarch$"
    while tag in body:
        tag = tag[:-1] + "_$"
    return f"DO {tag}\n{body}\n{tag};\n"


async def _memberships(session: Session) -> str:
    rows = await session.fetch(f"""
        SELECT r.rolname AS role, m.rolname AS member, to_jsonb(a) AS options
        FROM pg_catalog.pg_auth_members a
        JOIN pg_catalog.pg_roles r ON r.oid = a.roleid AND r.rolname !~ '^matriarch_'
        JOIN (SELECT oid, rolname FROM pg_catalog.pg_roles WHERE {_OURS}) m ON m.oid = a.member
        ORDER BY 1, 2, a.grantor
    """)  # noqa: S608 - made of constants
    merged: dict[tuple[str, str], dict[str, bool]] = {}
    for row in rows:  # one member may have a role from several grantors: the union is what it can do
        options = json.loads(row["options"])
        seen = merged.setdefault((row["role"], row["member"]), {})
        for key in ("admin_option", "inherit_option", "set_option"):  # the last two since PostgreSQL 16
            if key in options:
                seen[key] = seen.get(key, False) or options[key]
    lines = []
    for (role, member), options in sorted(merged.items()):
        words = [f"{key.removesuffix('_option').upper()} {str(value).upper()}" for key, value in options.items()]
        if list(options) == ["admin_option"]:  # before 16 only the true form exists
            words = ["ADMIN OPTION"] if options["admin_option"] else []
        grant = f"GRANT {quote(role)} TO {quote(member)}"
        lines.append(f"{grant} WITH {', '.join(words)};" if words else f"{grant};")
    return "\n".join(lines)


# Values of these are lists: each item is quoted by itself, or `a, b` would become one name.
_LISTS = {"local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries",
          "temp_tablespaces", "unix_socket_directories"}  # fmt: skip


def assignment(item: str) -> str:
    """`name=value` of pg_db_role_setting as it stands after SET."""
    name, _, value = item.partition("=")
    return f"{_parameter(name)} TO {setting_value(name, value)}"


def setting_value(name: str, value: str) -> str:
    if name.lower() not in _LISTS:
        return literal(value)
    return ", ".join(literal(part) for part in _split_list(value)) or literal("")


def _parameter(name: str) -> str:
    return ".".join(quote(part) for part in name.split("."))


def _split_list(value: str) -> list[str]:
    """The items of a list parameter: commas between, double quotes around what holds special signs."""
    items: list[str] = []
    current, quoted, was_quoted = "", False, False
    position = 0
    while position < len(value):
        sign = value[position]
        if quoted and sign == '"' and value[position + 1 : position + 2] == '"':
            current += '"'
            position += 1
        elif sign == '"':
            quoted, was_quoted = not quoted, True
        elif sign == "," and not quoted:
            items.append(current if was_quoted else current.strip())
            current, was_quoted = "", False
        elif quoted or not (sign.isspace() and (was_quoted or not current)):
            current += sign
        position += 1
    if current or was_quoted:
        items.append(current if was_quoted else current.strip())
    return items
