"""CodePal's rows, made from a seed: the same seed and scale give the same rows on every machine and Python.

They are what an application of this kind holds, with the values that break careless dumps among them: quotes,
backslashes, tabs, line ends, other scripts, NULL beside the empty string, documents, bytes, addresses, and a table
without a primary key.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import json
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record] | Any

Row = tuple[Any, ...]

# Rows of each table at scale 1, parents before children; 214,000 in all.
COUNTS: Mapping[str, int] = {
    "User": 10_000,
    "Account": 12_000,
    "Session": 30_000,
    "VerificationToken": 5_000,
    "APIKey": 7_000,
    "Project": 12_000,
    "ProjectMember": 48_000,
    "ProjectFile": 90_000,
}

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "User": ("id", "name", "email", "emailVerified", "image", "role", "createdAt", "updatedAt", "hashedPassword"),
    "Account": (
        "id",
        "userId",
        "type",
        "provider",
        "providerAccountId",
        "accessToken",
        "expiresAt",
        "tokenType",
        "scope",
    ),
    "Session": ("id", "sessionToken", "userId", "expires", "ipAddress", "userAgent"),
    "VerificationToken": ("identifier", "token", "expires"),
    "APIKey": ("id", "key", "userId", "name", "rateLimit", "createdAt", "lastUsedAt", "revokedAt"),
    "Project": ("id", "name", "description", "ownerId", "status", "visibility", "settings", "createdAt", "updatedAt"),
    "ProjectMember": ("id", "projectId", "userId", "role", "permissions", "joinedAt"),
    "ProjectFile": (
        *("id", "projectId", "path", "name", "content", "size", "language", "checksum", "createdAt", "updatedAt"),
    ),
}

EPOCH = dt.datetime(2025, 7, 9, 20, 26, 4)  # noqa: DTZ001 - the columns are TIMESTAMP(3), without a zone
YEAR_MS = 365 * 24 * 3600 * 1000
PROVIDERS = ("github", "google", "gitlab")
LANGUAGES = {"py": "python", "ts": "typescript", "sql": "sql", "md": "markdown", "go": "go", "css": "css"}
FOLDERS = ("src", "src/api", "lib", "tests", "docs", "migrations", "src/components/ui")
NAMES = """Ada Grace Zoë Søren Miłosz Björk Đorđe Αθηνά Лев 明子 नीला O'Neil Seán Ömer Yaël Fatima Kwame Inês
Lovelace Hopper Núñez Kierkegaard D'Arcy Müller-Lüdenscheidt Ковалёв 佐藤 Okafor Nguyễn van_der_Berg"""
WORDS = """const user await project member file session token select from where return if else for index update insert
limit offset import export async function class type json key value list map filter reduce map_err 'quoted' "double"
back\\slash tab\there naïve façade 漢字 🐘 $1 {brace} <tag> % & --comment /*block*/"""
FIRST, LAST = (line.split() for line in NAMES.splitlines())
TEXT = re.split(r"[ \n]+", WORDS)


def _id(rng: random.Random) -> str:
    return f"c{rng.getrandbits(96):024x}"


def _instant(rng: random.Random) -> dt.datetime:
    return EPOCH - dt.timedelta(milliseconds=rng.randrange(YEAR_MS))


def _maybe(rng: random.Random, chance: float, value: Callable[[], Any]) -> Any:
    return value() if rng.random() < chance else None


@dataclass(frozen=True, slots=True)
class Scale:
    """How many rows; `factor` 1 is the demo's size."""

    factor: float = 1.0

    def rows(self, table: str) -> int:
        return max(2, int(COUNTS[table] * self.factor))

    @property
    def total(self) -> int:
        return sum(self.rows(table) for table in COUNTS)


def tables(seed: int = 1, scale: Scale = Scale()) -> Iterator[tuple[str, Iterator[Row]]]:
    """Yields each table with its rows, parents first. Each table's rows must be drained before the next is taken."""
    rng = random.Random(f"{seed}/ids")
    users = [_id(rng) for _ in range(scale.rows("User"))]
    projects = [_id(rng) for _ in range(scale.rows("Project"))]
    makers: Mapping[str, Callable[[random.Random, int], Row]] = {
        "User": lambda r, i: _user(r, i, users[i]),
        "Account": lambda r, i: _account(r, i, r.choice(users)),
        "Session": lambda r, _: _session(r, r.choice(users)),
        "VerificationToken": _verification,
        "APIKey": lambda r, i: _api_key(r, i, r.choice(users)),
        "Project": lambda r, i: _project(r, i, projects[i], r.choice(users)),
        # Distinct by construction: a project's members are consecutive users from a place of its own.
        "ProjectMember": lambda r, i: _member(r, i, projects[i % len(projects)], users, i // len(projects)),
        "ProjectFile": lambda r, i: _file(r, i, r.choice(projects)),
    }
    for table in COUNTS:
        stream = random.Random(f"{seed}/{table}")
        make = makers[table]
        yield table, (make(stream, i) for i in range(scale.rows(table)))


def _user(rng: random.Random, i: int, key: str) -> Row:
    name = _maybe(rng, 0.95, lambda: f"{rng.choice(FIRST)} {rng.choice(LAST)}")
    created = _instant(rng)
    role = rng.choices(("user", "moderator", "admin"), (0.95, 0.04, 0.01))[0]
    secret = _maybe(
        rng, 0.7, lambda: f"$argon2id$v=19$m=65536,t=3,p=4${rng.getrandbits(128):032x}${rng.getrandbits(256):064x}"
    )
    image = _maybe(rng, 0.5, lambda: f"https://images.codepal.example/{key}.webp")
    return (
        key,
        name,
        f"user{i}@codepal.example",
        _maybe(rng, 0.8, lambda: created),
        image,
        role,
        created,
        created,
        secret,
    )


def _account(rng: random.Random, i: int, user: str) -> Row:
    expires = _maybe(rng, 0.9, lambda: 1_752_000_000 + rng.randrange(10_000_000))
    token = f"gho_{rng.getrandbits(200):050x}"
    return (
        _id(rng),
        user,
        "oauth",
        rng.choice(PROVIDERS),
        f"{i:09d}",
        token,
        expires,
        "bearer",
        "read:user user:email",
    )


def _session(rng: random.Random, user: str) -> Row:
    address = (
        ipaddress.ip_address(0x0A000000 + rng.getrandbits(24))
        if rng.random() < 0.8
        else ipaddress.ip_address(0x20010DB8 << 96 | rng.getrandbits(64))
    )
    expires = EPOCH + dt.timedelta(seconds=rng.randrange(-30 * 86_400, 30 * 86_400))
    agent = f"Mozilla/5.0 (X11; Linux x86_64) CodePal/{rng.randrange(90, 140)}.0"
    return (_id(rng), f"{rng.getrandbits(256):064x}", user, expires, address, agent)


def _verification(rng: random.Random, i: int) -> Row:
    return (f"user{rng.randrange(10_000)}@codepal.example", f"{i:06x}{rng.getrandbits(232):058x}", _instant(rng))


def _api_key(rng: random.Random, i: int, user: str) -> Row:
    created = _instant(rng)
    used = _maybe(rng, 0.6, lambda: created + dt.timedelta(hours=rng.randrange(1, 2000)))
    revoked = _maybe(rng, 0.1, lambda: created + dt.timedelta(days=rng.randrange(1, 200)))
    name = ("ci", "laptop", "", "deploy; prod", "it's mine")[i % 5]
    return (
        _id(rng),
        f"cp_{i:06x}{rng.getrandbits(136):034x}",
        user,
        name,
        rng.choice((100, 1000, 10_000)),
        created,
        used,
        revoked,
    )


def _project(rng: random.Random, i: int, key: str, owner: str) -> Row:
    created = _instant(rng)
    settings = {
        "theme": rng.choice(("dark", "light")),
        "tabSize": rng.choice((2, 4, 8)),
        "ai": {"enabled": rng.random() < 0.5},
    }
    description = _maybe(rng, 0.8, lambda: _text(rng, 12))
    status = rng.choices(("active", "archived", "draft"), (0.8, 0.15, 0.05))[0]
    visibility = rng.choice(("private", "team", "public"))
    return (key, f"project-{i}", description, owner, status, visibility, json.dumps(settings), created, created)


def _member(rng: random.Random, i: int, project: str, users: list[str], turn: int) -> Row:
    start = int(project[1:9], 16)
    user = users[(start + turn) % len(users)]
    role = ("owner", "editor", "viewer")[min(turn, 2)]
    permissions = json.dumps(["read", "write", "admin"][: 3 - min(turn, 2)])
    return (_id(rng), project, user, role, permissions, _instant(rng))


def _file(rng: random.Random, i: int, project: str) -> Row:
    ending = rng.choice(tuple(LANGUAGES))
    name = f"file{i}.{ending}"
    created = _instant(rng)
    content = None if i % 97 == 0 else "" if i % 101 == 0 else _text(rng, rng.randrange(20, 90))
    raw = (content or "").encode()
    checksum = hashlib.sha256(raw).digest() if content is not None else None
    path = f"{rng.choice(FOLDERS)}/{name}"
    return (_id(rng), project, path, name, content, len(raw), LANGUAGES[ending], checksum, created, created)


def _text(rng: random.Random, words: int) -> str:
    chosen = rng.choices(TEXT, k=words)
    return "\n".join(" ".join(chosen[at : at + 12]) for at in range(0, words, 12))


async def load(connection: Connection, seed: int = 1, scale: Scale = Scale()) -> Mapping[str, int]:
    """Fills the tables in one transaction; returns the rows of each. The tables must exist and be empty."""
    loaded = {}
    async with connection.transaction():
        for table, rows in tables(seed, scale):
            status = await connection.copy_records_to_table(table, records=rows, columns=COLUMNS[table], timeout=300)
            loaded[table] = int(status.removeprefix("COPY "))
    await connection.execute("ANALYZE", timeout=120)
    return loaded
