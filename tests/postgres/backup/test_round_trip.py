"""What goes into a backup comes out of it: every type, roles, databases with odd names, by S3 and by a folder."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from dev.s3 import S3Server
from matriarch.backup import expire
from matriarch.backup.jobspec import Retention
from matriarch.backup.store import Store
from tests.postgres.backup.bed import KEY, ODD, Postgres, do_restore, keys_in, local, make_backup, s3
from tests.postgres.backup.gcsbed import gcs


@pytest.fixture(params=["s3", "gcs", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return local(tmp_path / "store")
    if request.param == "gcs":
        return gcs(request.getfixturevalue("gcsserver"), "backups", tmp_path.name)
    s3server: S3Server = request.getfixturevalue("s3server")
    return s3(s3server, "backups", tmp_path / "credentials", prefix=tmp_path.name)


def test_a_restored_server_is_the_backed_up_one(store: Store, source: Postgres, target: Postgres) -> None:
    opened = make_backup(store, source)
    assert {d.name for d in opened.details.databases} == {"app", ODD}
    assert keys_in(store, "logical") == [opened.body.object.path]
    assert keys_in(store, "running") == []

    result = do_restore(store, target)

    assert set(result.databases) == {"app", ODD}
    assert (result.tables, result.rows) == (opened.body.tables, opened.body.rows)
    assert target.databases() == source.databases()
    for name in ("app", ODD):
        assert target.dump(name) == source.dump(name)
    for query in _SHARED:
        assert target.sql(query) == source.sql(query)


_SHARED = (
    """SELECT rolname, rolpassword, rolconnlimit, rolvaliduntil, rolcanlogin FROM pg_authid
       WHERE rolname !~ '^(pg_|matriarch_)' ORDER BY 1""",
    """SELECT roleid::regrole::text, member::regrole::text, admin_option, inherit_option, set_option
       FROM pg_auth_members WHERE member::regrole::text !~ '^(pg_|matriarch_)' ORDER BY 1, 2""",
    """SELECT coalesce(datname, ''), setrole::regrole::text, array(SELECT unnest(setconfig) ORDER BY 1)
       FROM pg_db_role_setting LEFT JOIN pg_database d ON d.oid = setdatabase
       WHERE setrole::regrole::text !~ '^matriarch_' ORDER BY 1, 2""",
    """SELECT datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datconnlimit, datallowconn,
              shobj_description(oid, 'pg_database') FROM pg_database ORDER BY 1""",
    "SELECT shobj_description(oid, 'pg_authid') FROM pg_authid WHERE rolname = 'readers'",
)


def test_what_retention_leaves_is_the_newest(store: Store, source: Postgres) -> None:
    old, new = (make_backup(store, source, task={"databases": ("app",)}) for _ in range(2))
    done = expire.retain(store, (KEY,), Retention(count=1), None)
    assert (done.deleted, done.kept, done.frozen) == ((old.body.id,), 1, None)
    assert keys_in(store, "logical") == [new.body.object.path]
    assert keys_in(store, "manifests") == [new.manifest.key]
    assert len(keys_in(store, "tombstones")) == 1


def test_the_file_is_plain_sql_once_it_is_decrypted(tmp_path: Path, source: Postgres, target: Postgres) -> None:
    """No lock-in: with the key, gunzip and psql do."""
    store = local(tmp_path / "store")
    opened = make_backup(store, source)
    (tmp_path / "key").write_text(KEY.secret.hex())
    script = Path(__file__).parents[3] / "docs" / "recovery" / "matriarch-decrypt.py"
    file = tmp_path / "store" / opened.body.object.path
    packed = subprocess.run(
        [sys.executable, "-I", script, "object", tmp_path / "key", file], capture_output=True, check=True
    ).stdout
    subprocess.run(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", f"host={target.folder} user=postgres dbname=postgres"],
        input=gzip.decompress(packed),
        check=True,
        capture_output=True,
    )
    for name in ("app", ODD):
        assert target.dump(name) == source.dump(name)


@pytest.mark.parametrize("compression", [True, False])
@pytest.mark.parametrize("encryption", [True, False])
def test_the_name_says_how_it_was_made(
    tmp_path: Path, source: Postgres, target: Postgres, compression: bool, encryption: bool
) -> None:
    store = local(tmp_path / "store")
    key = KEY if encryption else None
    opened = make_backup(store, source, key=key, task={"compression": compression})
    endings = ".sql" + (".gz" if compression else "") + (".enc" if encryption else "")
    assert opened.body.file == opened.body.name + endings
    assert bool([w for w in opened.body.warnings if "not encrypted" in w]) == (not encryption)
    assert do_restore(store, target, keys=(key,) if key else ()).rows == opened.body.rows
