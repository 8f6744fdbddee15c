"""The primary is changed on purpose, under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.load import Load
from dev.kubectl import KubectlError
from dev.product import Cluster

ANNOTATION = "matriarch.dev/switchover"


def another(orders: Cluster) -> str:
    primary = orders.primary
    return next(str(i["name"]) for i in orders.status()["instanceStatuses"] if i["name"] != primary)


def test_by_the_spec(orders: Cluster, artifacts: Path) -> None:
    orders.wait_ready()
    wanted = another(orders)
    with Load(orders.database(), artifacts / "load" / "switchover-spec.log") as load:
        calm = load.flowing()
        orders.patch({"primary": wanted})
        orders.wait_primary(wanted)
        load.flowing()
        load.stop()
        assert load.figures(calm).lost == ()
    status = orders.wait_ready()["status"]
    assert status["primary"] == wanted
    assert (status["switchover"]["to"], status["switchover"]["state"]) == (wanted, "done")


def test_by_an_annotation(orders: Cluster, artifacts: Path) -> None:
    orders.wait_ready()
    wanted = another(orders)
    with Load(orders.database(), artifacts / "load" / "switchover-annotation.log") as load:
        calm = load.flowing()
        orders.kubectl.run(
            *("annotate", "databasecluster", orders.name, "-n", orders.namespace, "--overwrite"),
            f"{ANNOTATION}={wanted}",
        )
        orders.wait_primary(wanted)
        load.flowing()
        load.stop()
        assert load.figures(calm).lost == ()
    orders.wait_ready()


def test_to_an_instance_that_does_not_exist_is_refused(orders: Cluster) -> None:
    before = orders.wait_ready()["status"]["primary"]
    with pytest.raises(KubectlError, match="is not an instance of this cluster"):
        orders.patch({"primary": f"{orders.name}-9"})
    assert orders.primary == before
