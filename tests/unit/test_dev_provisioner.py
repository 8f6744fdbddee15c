"""What a round of the volume provisioner finds to do, and sizes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev.host import DevError
from dev.kubebox import provisioner
from dev.kubebox.volumes import SMALLEST, bytes_of, quantity, size_for

Object = dict[str, Any]


def _claim(uid: str = "1", *, size: str = "1Gi", node: str = "node1", bound: bool = False, has: str = "") -> Object:
    status = {"phase": "Bound", "capacity": {"storage": has or size}} if bound else {"phase": "Pending"}
    annotations = {"volume.kubernetes.io/selected-node": node} if node else {}
    return {
        "metadata": {"name": f"data-{uid}", "namespace": "prod", "uid": uid, "annotations": annotations},
        "spec": {
            "storageClassName": "local",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}},
            **({"volumeName": f"pvc-{uid}"} if bound else {}),
        },
        "status": status,
    }


def _volume(uid: str = "1", *, size: str = "1Gi", phase: str = "Bound", policy: str = "Delete") -> Object:
    return {
        "metadata": {"name": f"pvc-{uid}"},
        "spec": {"storageClassName": "local", "persistentVolumeReclaimPolicy": policy, "capacity": {"storage": size}},
        "status": {"phase": phase},
    }


def _names(found: provisioner.Work) -> tuple[list[str], list[str], list[str]]:
    return (
        [c["metadata"]["uid"] for c in found.make],
        [c["metadata"]["uid"] for c, _ in found.grow],
        [v["metadata"]["name"] for v in found.remove],
    )


@pytest.mark.parametrize(
    ("claims", "volumes", "expected"),
    [
        ([], [], ([], [], [])),
        ([_claim()], [], (["1"], [], [])),
        ([_claim(node="")], [], ([], [], [])),  # the scheduler has not chosen yet
        ([_claim()], [_volume(phase="Available")], ([], [], [])),  # made, not bound yet
        ([_claim(bound=True)], [_volume()], ([], [], [])),
        ([_claim(bound=True)], [], ([], [], [])),  # its volume was lost: never made anew, data would be gone silently
        ([_claim(bound=True, size="2Gi", has="1Gi")], [_volume()], ([], ["1"], [])),
        (
            [_claim(bound=True, size="2Gi", has="2Gi")],
            [_volume()],
            ([], ["1"], []),
        ),  # stopped half-way
        ([_claim(bound=True, size="2Gi", has="1Gi")], [_volume(size="2Gi")], ([], ["1"], [])),
        ([_claim(bound=True, size="2Gi", has="2Gi")], [_volume(size="2Gi")], ([], [], [])),
        ([_claim(bound=True, size="100Mi", has="300Mi")], [_volume(size="300Mi")], ([], [], [])),
        ([], [_volume(phase="Released")], ([], [], ["pvc-1"])),
        ([], [_volume(phase="Released", policy="Retain")], ([], [], [])),
        ([], [_volume(phase="Bound")], ([], [], [])),
    ],
)
def test_work(claims: list[Object], volumes: list[Object], expected: tuple[list[str], list[str], list[str]]) -> None:
    assert _names(provisioner.work(claims, volumes)) == expected


def test_other_classes_and_dying_claims_are_left_alone() -> None:
    other, dying = _claim("1"), _claim("2")
    other["spec"]["storageClassName"] = "fast"
    dying["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    volume = _volume("3", phase="Released")
    volume["spec"]["storageClassName"] = "fast"
    assert _names(provisioner.work([other, dying], [volume])) == ([], [], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", 1), ("1k", 1000), ("1Ki", 1024), ("1.5Gi", 3 * 2**29), ("0.1Ki", 103), ("2G", 2 * 10**9), ("1Ti", 2**40)],
)
def test_quantities(text: str, expected: int) -> None:
    assert bytes_of(text) == expected


@pytest.mark.parametrize("text", ["", "Gi", "-1Gi", "1 Gi", "1Xi", "1e3"])
def test_bad_quantities_are_refused(text: str) -> None:
    with pytest.raises(DevError, match="is not a size"):
        bytes_of(text)


@given(st.integers(0, 2**45))
def test_a_size_is_enough_and_survives_being_written(requested: int) -> None:
    size = size_for(requested)
    assert size >= max(requested, SMALLEST)
    assert size - requested < 4096 or size == SMALLEST
    assert bytes_of(quantity(size)) == size
