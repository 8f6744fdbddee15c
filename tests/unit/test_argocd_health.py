"""Argo CD's health script over every row of the contract, run by a real Lua."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lupa
import pytest
import yaml

from tests.condition_rows import ROWS, Row

PROJECT = Path(__file__).parents[2]
SCRIPT = (PROJECT / "manifests/argocd/health.lua").read_text(encoding="utf-8")


def health(obj: dict[str, Any], script: str = SCRIPT) -> tuple[str, str]:
    """(status, message) as Argo CD gets them: `obj` is a global, and the script returns a table."""
    lua = lupa.LuaRuntime(unpack_returned_tuples=True, register_eval=False, register_builtins=False)
    lua.globals().obj = lua.table_from(obj, recursive=True)
    result = lua.execute(script)
    return str(result["status"]), str(result["message"])


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.what)
def test_each_row_of_the_contract(row: Row) -> None:
    assert health(row.object()) == (row.argo, row.message)


def test_a_condition_of_an_older_generation_counts_for_nothing() -> None:
    row = next(r for r in ROWS if r.what == "healthy")
    obj = row.object()
    for condition in obj["status"]["conditions"]:
        condition["observedGeneration"] = 1
    assert health(obj)[0] == "Progressing"


def test_an_object_without_a_status_is_not_healthy() -> None:
    assert health(Row("", None, "", "", "").object())[0] == "Progressing"


def test_the_config_map_holds_the_script_for_every_kind() -> None:
    data = yaml.safe_load((PROJECT / "manifests/argocd/argocd-cm.yaml").read_text(encoding="utf-8"))["data"]
    kinds = {"DatabaseCluster", "Backup", "BackupSchedule", "Restore"}
    scripts = {name: text for name, text in data.items() if name.startswith("resource.customizations.health.")}
    assert set(scripts) == {f"resource.customizations.health.matriarch.dev_{kind}" for kind in kinds}
    for row in ROWS:
        assert health(row.object(), scripts[f"resource.customizations.health.matriarch.dev_{row.kind}"])[0] == row.argo
