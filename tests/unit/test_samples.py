"""The samples are read by people first: short, explained, and right by every rule, also the operator's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from matriarch.api.backup import Backup
from matriarch.api.backup_schedule import BackupSchedule
from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.model import Resource, refusals
from matriarch.api.restore import Restore
from matriarch.postgres.parameters import validate

MODELS: dict[str, type[Resource]] = {m.__name__: m for m in (DatabaseCluster, Backup, BackupSchedule, Restore)}
SAMPLES = sorted((Path(__file__).parents[2] / "manifests/samples").glob("*.yaml"))


def _objects(path: Path) -> list[Any]:
    return [obj for obj in yaml.safe_load_all(path.read_text(encoding="utf-8")) if obj]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.name)
def test_a_sample_is_explained_and_right(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# "), "a sample says first what it is for"
    for obj in _objects(path):
        if obj["kind"] == "Secret":
            assert all("fill-in" in value for value in obj["stringData"].values()), "no sample holds a secret"
            continue
        read = MODELS[obj["kind"]].model_validate(obj)
        assert refusals(read) == []
        if isinstance(read, DatabaseCluster):
            assert validate(read.spec.parameters or {}, read.spec.version) == []


def test_every_field_of_a_sample_is_one_that_the_models_know() -> None:
    for path in SAMPLES:
        for obj in _objects(path):
            if obj["kind"] in MODELS:
                read = MODELS[obj["kind"]].model_validate(obj).model_dump(by_alias=True, exclude_unset=True)
                assert _keys(obj["spec"]) == _keys(read["spec"]), path.name


def _keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _keys(inner) for key, inner in value.items()}
    return [_keys(inner) for inner in value] if isinstance(value, list) else None


def test_the_smallest_cluster_is_small() -> None:
    text = (SAMPLES[0].parent / "smallest.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 15


def test_what_argo_cd_and_flux_are_pointed_at_exists() -> None:
    project = SAMPLES[0].parents[2]
    apps = [
        o for f in ("argocd/application.yaml", "flux/helmrelease.yaml") for o in _objects(project / "manifests" / f)
    ]
    operator = next(o for o in apps if o["kind"] == "Application" and o["metadata"]["name"] == "matriarch")
    release = next(o for o in apps if o["kind"] == "HelmRelease")
    assert (project / operator["spec"]["source"]["path"] / "Chart.yaml").exists()
    assert (project / release["spec"]["chart"]["spec"]["chart"] / "Chart.yaml").exists()
    known = yaml.safe_load((project / "helm/matriarch/values.yaml").read_text(encoding="utf-8"))
    for given in (operator["spec"]["source"]["helm"]["valuesObject"], release["spec"]["values"]):
        assert set(given) <= set(known)


def test_every_kind_has_a_sample() -> None:
    assert {obj["kind"] for path in SAMPLES for obj in _objects(path)} >= set(MODELS)
