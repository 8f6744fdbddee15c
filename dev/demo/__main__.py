"""`make demo`: tells the story step by step, and leaves everything up to play with."""

from __future__ import annotations

import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from bench.records import CLOUDNATIVEPG
from dev.demo.display import Display
from dev.demo.story import BACKUP, CLUSTER, COPY, NAME, NAMESPACE, Demo
from dev.host import CACHE, DevError

STEPS = 12
SWITCH = f'{{"spec":{{"primary":"{CLUSTER}-3"}}}}'


def tell(display: Display, demo: Demo) -> None:
    """All steps; the first one that fails ends it."""
    with display.step("Kubernetes: three nodes on this machine") as step:
        demo.kubernetes(step)
    with display.step("Images of the operator and of PostgreSQL") as step:
        demo.images(step)
    with display.step("Operator: helm install") as step:
        demo.operator(step)
    with display.step("S3 server") as step:
        demo.store(step)
    with display.step("DatabaseCluster `orders`: three instances") as step:
        demo.cluster(step)
    with display.step("CodePal: schema and rows") as step:
        demo.codepal(step)
    with display.step("BackupSchedule to S3") as step:
        demo.schedule(step)
    # The load outlives its own step: it runs until the primary was killed and is whole again.
    with display.step("Load through the write Service") as step:
        loading = demo.load(step)
        load = loading.__enter__()
    try:
        with display.step("Backup under this load") as step:
            demo.backup(step, load)
        with display.step("The primary's postmaster is killed with -9") as step:
            demo.kill(step, load)
    finally:
        loading.__exit__(None, None, None)
    with display.step("Restore of that backup into a second cluster") as step:
        demo.restore(step)
    with display.step("Comparison of every table with the backup's manifest") as step:
        demo.comparison(step)


def ending(display: Display, demo: Demo) -> None:
    """The figures that matter, and what to try next."""
    display.summary()
    peer = CLOUDNATIVEPG["postmaster-kill"]
    display.say(
        f"\n  Writes paused for {demo.seen.gap.seconds:.2f} s when the primary was killed and none of"
        f" {demo.seen.acknowledged:,} acknowledged ones is missing\n"
        f"  (CloudNativePG 1.30, published for three such nodes: {peer} s)."
    )
    display.say(f"\n{display.paint('Everything is still up. Try:', '1')}\n")
    alias = [] if shutil.which("kubectl") else [f"alias kubectl='{CACHE / 'bin' / 'kubebox'} kubectl'"]
    for line in (
        *alias,
        f"export KUBECONFIG={demo.kubectl.kubeconfig}",
        f"kubectl -n {NAMESPACE} get dbc,bak,bks,rst",
        f"kubectl -n {NAMESPACE} get pods -L matriarch.dev/role -w",
        f"kubectl -n {NAMESPACE} patch dbc {CLUSTER} --type merge -p '{SWITCH}'   # switchover",
        f"kubectl -n {NAMESPACE} delete pod {CLUSTER}-1 --grace-period=0 --force   # failover",
        f"kubectl -n {NAMESPACE} scale dbc {CLUSTER} --replicas=5",
        f"kubectl -n {NAMESPACE} get bak {BACKUP} -o yaml",
        f"kubectl -n {NAMESPACE} delete dbc {COPY}   # its volumes stay, and come back with a resource of that name",
        "python3 bench/failover.py --fault pod-delete-now --runs 3   # the failover bench",
        f"make cluster-down NAME={NAME}   # when you are done",
    ):
        display.say(f"  {line}")


def main() -> int:
    """Entry point; 0 when every step succeeded."""
    display = Display(STEPS)
    demo = Demo(Path(tempfile.mkdtemp(prefix="matriarch-demo-")))
    try:
        tell(display, demo)
    except DevError as e:
        display.say(f"\n{display.paint('The demo stopped:', '31;1')} {e}\n")
        display.say(
            f"What is up stays up, to be looked at. `make demo` starts over; `make cluster-down NAME={NAME}` ends it."
        )
        return 1
    except KeyboardInterrupt:
        display.say("\nstopped; what is up stays up")
        return 130
    except Exception:  # noqa: BLE001 - the last line of defence of a program for people
        traceback.print_exc()
        display.say("\nThe demo stopped by an error of its own: please report the lines above.")
        return 1
    ending(display, demo)
    return 0


if __name__ == "__main__":
    sys.exit(main())
