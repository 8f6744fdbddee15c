"""The Job: what its pod may and may not do, and which ends are final."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from matriarch.agent.postgres.facts import Paths
from matriarch.backup.jobresult import RESULT_LIMIT
from matriarch.backup.jobspec import KEY_FOLDER, STORE_FOLDER, TLS_FOLDER, Exit
from matriarch.resources import job as module
from matriarch.resources import names
from matriarch.resources.job import JobWish, job, job_name, labels
from matriarch.resources.storefiles import SecretFiles

UID = "1a2b3c4d-5e6f-7a8b-9c0d-1e2f3a4b5c6d"
OWNER = {"apiVersion": "matriarch.dev/v1alpha1", "kind": "Backup", "metadata": {"name": "b", "uid": UID}}
WISH = JobWish(
    name="orders-backup-1",
    namespace="prod",
    cluster="orders",
    owner=OWNER,
    image="postgres:17",
    task="{}",
    purpose="backup",
    account="orders-backup",
    tls="orders-backup-tls",
    key=SecretFiles(secret="orders-backup-key", files={"key": "backup-key"}),
    store=(SecretFiles(secret="s3", files={"ACCESS_KEY_ID": "access-key", "SECRET_ACCESS_KEY": "secret-key"}),),
)


def pod(wish: JobWish) -> dict[str, Any]:
    found: dict[str, Any] = job(wish)["spec"]["template"]["spec"]
    return found


def test_mounts_are_where_the_engine_looks() -> None:
    assert (module.TLS_PATH, module.KEY_PATH, module.STORE_PATH) == (TLS_FOLDER, KEY_FOLDER, STORE_FOLDER)


def test_what_repeating_cannot_mend_ends_the_job_and_the_rest_is_repeated() -> None:
    spec = job(WISH)["spec"]
    final = next(r["onExitCodes"] for r in spec["podFailurePolicy"]["rules"] if r["action"] == "FailJob")
    assert final["operator"] == "In"
    assert set(final["values"]) == {Exit.REFUSED, Exit.CORRUPT}
    assert final["containerName"] == pod(WISH)["containers"][0]["name"]
    assert 0 < spec["backoffLimit"] < 10
    assert pod(WISH)["restartPolicy"] == "Never", "podFailurePolicy asks for it"


def test_the_result_is_read_from_the_file_and_not_from_the_log() -> None:
    assert pod(WISH)["containers"][0]["terminationMessagePolicy"] == "File"
    assert RESULT_LIMIT == 4096


def test_no_token_where_nothing_is_reported() -> None:
    assert pod(WISH)["automountServiceAccountToken"] is True
    without = pod(replace(WISH, account=None))
    assert without["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in without


def test_no_secret_s_content_is_in_the_job_but_by_reference() -> None:
    container = pod(replace(WISH, password="orders-superuser"))["containers"][0]
    values = {e["name"]: e.get("value") for e in container["env"]}
    assert values["PGPASSWORD"] is None
    reference = next(e["valueFrom"] for e in container["env"] if e["name"] == "PGPASSWORD")
    assert reference == {"secretKeyRef": {"name": "orders-superuser", "key": "password"}}


def test_the_member_s_volume_is_read_beside_it_and_never_written() -> None:
    assert "affinity" not in pod(WISH)
    spec = pod(replace(WISH, member="orders-2"))
    (term,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"].items() <= names.labels("orders", "orders-2").items()
    claims = [v["persistentVolumeClaim"] for v in spec["volumes"] if "persistentVolumeClaim" in v]
    assert claims == [{"claimName": "orders-2", "readOnly": True}]
    mount = next(m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "member")
    assert mount["readOnly"]
    assert "subPath" not in mount, "the kubelet would make it where it is missing"
    assert str(Paths().pgdata) == module.PGDATA


def test_a_job_s_pod_is_no_member_of_the_cluster() -> None:
    """Services, disruption budgets and the controller's own questions go by these labels."""
    template = job(WISH)["spec"]["template"]["metadata"]["labels"]
    assert not set(names.selector("orders").items()) <= set(template.items())
    assert names.CLUSTER_LABEL not in template
    assert template["app.kubernetes.io/managed-by"] == "matriarch", "else the controller never hears of its end"
    assert labels("orders", "key").keys() == template.keys()


@pytest.mark.parametrize("purpose", ["backup", "verify", "restore", "retain"])
def test_names_fit_and_tell_attempts_apart(purpose: str) -> None:
    longest = "c" * 40
    first, second = job_name(longest, purpose, UID, 1), job_name(longest, purpose, UID, 2)
    assert len(first) <= 63
    assert first != second
    assert first == job_name(longest, purpose, UID, 1)


def test_only_a_kept_job_outlives_its_end() -> None:
    assert job(WISH)["spec"]["ttlSecondsAfterFinished"] > 0
    assert "ttlSecondsAfterFinished" not in job(replace(WISH, keep=True))["spec"]
    assert job(replace(WISH, suspended=True))["spec"]["suspend"] is True


def test_a_volume_that_is_filled_is_written_and_not_held_for_long() -> None:
    wish = replace(WISH, fills="copy-1", command=("python", "-m", "x"), memory="3Gi")
    wish = replace(wish, requests={"cpu": "1", "memory": "2Gi"})
    spec = pod(wish)
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "copy-1"}} in spec["volumes"]
    container = spec["containers"][0]
    assert {"name": "data", "mountPath": module.MEMBER_PATH} in container["volumeMounts"]
    assert container["command"] == ["python", "-m", "x"]
    assert container["resources"] == {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "3Gi"}}
    for mounts in (wish, replace(WISH, member="orders-2")):
        kept = job(mounts)["spec"]["ttlSecondsAfterFinished"]
        assert kept <= 600, "a claim is not deleted while an ended Pod names it"
