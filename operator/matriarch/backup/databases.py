"""Databases around their content: which ones there are, and what CREATE DATABASE and its ALTERs need.

pg_dump leaves the properties of a database out unless it also fixes its name. A restore fills a database of a temporary
name and renames it, so the properties are kept as values and turned into SQL for whichever name is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

from matriarch.backup.fingerprint import literal, quote
from matriarch.backup.jobspec import Reason
from matriarch.backup.manifest import Grant, Properties, Setting
from matriarch.backup.roles import assignment
from matriarch.backup.server import Session
from matriarch.errors import Refused

TEMPORARY = "matriarch_restore_"  # prefix of databases that a restore fills; never backed up
REPLACED = "matriarch: replaced by restore "  # comment of a database that was kept; not backed up either


@dataclass(frozen=True, slots=True)
class Known:
    name: str
    size: int


async def application_databases(session: Session, wanted: tuple[str, ...] = ()) -> list[Known]:
    """All that are not templates and not `postgres`, or exactly the wanted ones. Raises Refused (BadSpec)."""
    rows = await session.fetch(
        """
        SELECT datname AS name, datname = 'postgres' AS maintenance,
               CASE WHEN has_database_privilege(oid, 'CONNECT') THEN pg_database_size(oid) ELSE 0 END AS size
        FROM pg_catalog.pg_database
        WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2 -- a DROP that was interrupted
          AND NOT starts_with(datname, $1)
          AND coalesce(shobj_description(oid, 'pg_database'), '') NOT LIKE $2
        ORDER BY datname COLLATE "C"
        """,
        TEMPORARY,
        f"{REPLACED}%",
    )
    found = {r["name"]: Known(r["name"], r["size"]) for r in rows}
    if wanted:
        if missing := [name for name in wanted if name not in found]:
            raise Refused(f"There is no database {missing[0]} on this server.", reason=Reason.BAD_SPEC)
        return [found[name] for name in wanted]
    return [found[r["name"]] for r in rows if not r["maintenance"]]


async def read_properties(session: Session, name: str, *, version: int) -> Properties:
    """`version` is server_version_num: the catalogue's columns were renamed in 15, 16 and 17."""
    locale = "datlocale" if version >= 170000 else "daticulocale" if version >= 150000 else "NULL::text"
    rules = "daticurules" if version >= 160000 else "NULL::text"
    provider = "datlocprovider::text" if version >= 150000 else "'c'"
    rows = await session.fetch(
        f"""
        SELECT pg_get_userbyid(datdba) AS owner, pg_encoding_to_char(encoding) AS encoding, {provider} AS provider,
               datcollate AS collate, datctype AS ctype, {locale} AS locale, {rules} AS icu_rules,
               datconnlimit AS connection_limit, shobj_description(oid, 'pg_database') AS comment,
               datacl IS NOT NULL AS has_grants, oid
        FROM pg_catalog.pg_database WHERE datname = $1
        """,  # noqa: S608 - made of constants
        name,
    )
    row = rows[0]
    grants = await session.fetch(
        """
        SELECT CASE WHEN grantee <> 0 THEN pg_get_userbyid(grantee) END AS grantee, privilege_type, is_grantable
        FROM pg_catalog.pg_database, aclexplode(datacl)
        WHERE datname = $1 ORDER BY grantee NULLS FIRST, privilege_type
        """,
        name,
    )
    settings = await session.fetch(
        """
        SELECT CASE WHEN setrole = 0 THEN NULL ELSE pg_get_userbyid(setrole) END AS role, unnest(setconfig) AS item
        FROM pg_catalog.pg_db_role_setting WHERE setdatabase = $1 ORDER BY 1 NULLS FIRST, 2
        """,
        row["oid"],
    )
    return Properties(
        owner=row["owner"],
        encoding=row["encoding"],
        provider=row["provider"],
        collate=row["collate"],
        ctype=row["ctype"],
        locale=row["locale"],
        icu_rules=row["icu_rules"],
        connection_limit=row["connection_limit"],
        comment=row["comment"],
        grants=tuple(
            Grant(grantee=g["grantee"], privilege=g["privilege_type"], grantable=g["is_grantable"]) for g in grants
        )
        if row["has_grants"]
        else None,
        settings=tuple(
            Setting(role=s["role"], name=s["item"].partition("=")[0], value=s["item"].partition("=")[2])
            for s in settings
        ),
    )


def create_sql(properties: Properties, name: str) -> str:
    """CREATE DATABASE with the same encoding and locale, from template0."""
    p = properties
    options = [
        f"OWNER = {quote(p.owner)}",
        "TEMPLATE = template0",
        f"ENCODING = {literal(p.encoding)}",
        f"LC_COLLATE = {literal(p.collate)}",
        f"LC_CTYPE = {literal(p.ctype)}",
    ]
    if p.provider == "i":
        options += ["LOCALE_PROVIDER = icu", f"ICU_LOCALE = {literal(p.locale or '')}"]
        if p.icu_rules:
            options.append(f"ICU_RULES = {literal(p.icu_rules)}")
    elif p.provider == "b":
        options += ["LOCALE_PROVIDER = builtin", f"BUILTIN_LOCALE = {literal(p.locale or 'C')}"]
    elif p.provider == "c":
        options += ["LOCALE_PROVIDER = libc"]
    return f"CREATE DATABASE {quote(name)} WITH {' '.join(options)};"


def properties_sql(properties: Properties, name: str) -> list[str]:
    """Comment, rights and settings; the connection limit is apart, because a restore sets it last."""
    database = quote(name)
    statements = []
    if properties.comment:
        statements.append(f"COMMENT ON DATABASE {database} IS {literal(properties.comment)};")
    if properties.grants is not None:
        statements.append(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC;")
        statements.append(f"REVOKE ALL ON DATABASE {database} FROM {quote(properties.owner)};")
        for grant in properties.grants:
            to = "PUBLIC" if grant.grantee is None else quote(grant.grantee)
            option = " WITH GRANT OPTION" if grant.grantable else ""
            statements.append(f"GRANT {grant.privilege} ON DATABASE {database} TO {to}{option};")
    for setting in properties.settings:
        what = f"ROLE {quote(setting.role)} IN DATABASE {database}" if setting.role else f"DATABASE {database}"
        statements.append(f"ALTER {what} SET {assignment(f'{setting.name}={setting.value}')};")
    return statements


def create_section(properties: Properties, name: str) -> str:
    """The stretch of the SQL text that leads plain psql into a new database of the real name."""
    lines = [f"-- Database {name.splitlines()[0] if name else name}", create_sql(properties, name)]
    lines += properties_sql(properties, name)
    if properties.connection_limit != -1:
        lines.append(f"ALTER DATABASE {quote(name)} CONNECTION LIMIT {properties.connection_limit};")
    # psql reads a conninfo here, in which a quote or backslash is escaped; then its own argument quoting.
    conninfo = "dbname='" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"
    quoted = '"' + conninfo.replace('"', '""') + '"'
    return "\n".join((*lines, f"\\connect -reuse-previous=on {quoted}", ""))
