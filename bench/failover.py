"""How long writes stop when something breaks, and whether an acknowledged write is ever lost.

    python3 bench/failover.py --fault postmaster-kill --runs 10
    python3 bench/failover.py --fault all --runs 10 --peer patroni --peer-settings both
    python3 bench/failover.py --table

Runs from a fresh clone: makes the project's environment, a local Kubernetes (the demo's when that is up), installs the
operator of the present sources and a cluster of three. Four outside clients use the Secret's plain `uri` unchanged,
with a connect timeout of 1 s and a statement timeout of 2 s, and write a new row every 10 ms each through the write
Service. The outage is the longest time between two consecutive acknowledgements, over all clients, from the fault
until the cluster is whole again; after that every acknowledged id is looked for in the database. Progress goes to
stderr. The last line of stdout is one JSON object for the last fault; `peer` in it holds the same of the peer.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file, perhaps by a Python that has nothing of what is imported below
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from bench.environment import enter

    enter("bench.failover")

import argparse
import datetime as dt
import json
import os
import signal
import tempfile
import time
from typing import TYPE_CHECKING, Any

from bench.contenders import Matriarch, Peer, kubernetes, revision
from bench.faults import FAULTS, REQUIRED
from bench.places import OPERATOR, place_operator, wanted
from bench.records import Record, by_fault, line, markdown, parse, readable, record, summary
from bench.runs import Bench
from dev.host import PROJECT, DevError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.contender import Contender
    from dev.cluster import Ground

RECORDS = PROJECT / "build" / "failover.jsonl"
STARTED = time.monotonic()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="bench/failover.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults:\n" + "\n".join(f"  {f.name:<17} {f.about}" for f in FAULTS.values()),
    )
    made.add_argument("--fault", action="append", choices=[*FAULTS, "all"], help="may be given several times")
    made.add_argument("--runs", type=int, default=10, help="of each fault, on each place (default: 10)")
    made.add_argument("--json", action="store_true", help="nothing but JSON on stdout")
    made.add_argument("--each-node", action="store_true", help="with the primary on each node in turn")
    made.add_argument("--operator", choices=OPERATOR, default="any", help="whether it acts on the struck node")
    made.add_argument("--pooler", action="store_true", help="the clients go through the cluster's pooler")
    made.add_argument("--peer", choices=["patroni"], help="measure it after ours, on the same nodes")
    made.add_argument("--peer-settings", choices=["default", "fastest", "both"], default="default")
    made.add_argument("--only-peer", action="store_true", help="leave ours out")
    made.add_argument("--name", default=os.environ.get("NAME"), help="the local Kubernetes (default: demo if it is up)")
    made.add_argument("--namespace", default="bench")
    made.add_argument("--cluster", default="failover", help="a DatabaseCluster; made when it is not there")
    made.add_argument("--records", type=Path, default=RECORDS, help="every run is added to this file")
    made.add_argument("--resume", action="store_true", help="count the runs of the same sources that it has already")
    made.add_argument("--minutes", type=float, help="begin no run after so long; --resume goes on another time")
    made.add_argument("--table", action="store_true", help="only print the table of all runs in --records")
    return made


def faults(given: Sequence[str] | None) -> list[str]:
    """The faults to run, each once, in the given order; all that are asked for of a release when nothing is given."""
    names = given or ["all"]
    return list(dict.fromkeys(name for one in names for name in (REQUIRED if one == "all" else [one])))


def missing(fault: str, kept: Sequence[Record], args: argparse.Namespace) -> int:
    """How many runs of a fault are to be made, when `kept` were made before."""
    wanted_runs: int = args.runs
    return max(0, wanted_runs - sum(one.fault == fault for one in kept))


def earlier(args: argparse.Namespace, product: str, settings: str, sources: str) -> list[Record]:
    """With `--resume`: the runs of the same sources that the file has already."""
    if not args.resume or not args.records.exists():
        return []
    with args.records.open() as lines:
        return [
            one for one in parse(lines) if (one.product, one.settings, one.revision) == (product, settings, sources)
        ]


def measure(
    bench: Bench, args: argparse.Namespace, *, product: str, settings: str, renew: Callable[[], None]
) -> list[Record]:
    """Every wanted fault, so many times, on every wanted place; each run is kept as soon as it is over.

    Faults take turns, so that what else happens on the machine meets all alike. `renew` makes the cluster anew after
    it did not become whole again.
    """
    sources = revision()
    found = earlier(args, product, settings, sources)
    cluster = bench.cluster
    nodes = [cluster.node_of(name) for name in cluster.instances()]
    places = wanted(args.operator, cluster.node_of(cluster.primary), nodes, each=args.each_node)
    due = {fault: missing(fault, found, args) for fault in faults(args.fault)}
    for number in range(max(due.values())):
        for fault in (name for name, count in due.items() if count > number):
            for node, there in places:
                if over(args):
                    bench.say("the time is over")
                    return found
                bench.say(f"{product} {settings} {fault}, {number + 1} of {due[fault]}".replace("  ", " "))
                if node and there is not None:
                    place_operator(cluster.kubectl, node, there=there)
                seen = bench.run(FAULTS[fault], place=node)
                kept = record(
                    seen,
                    product=product,
                    settings=settings,
                    fault=fault,
                    healed=bench.healed,
                    read=bench.read,
                    at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
                    revision=sources,
                    load=os.getloadavg()[0],
                )
                found.append(kept)
                args.records.parent.mkdir(parents=True, exist_ok=True)
                with args.records.open("a") as file:
                    file.write(line(kept))
                if not bench.healed:
                    renew()
    return found


def over(args: argparse.Namespace) -> bool:
    """Whether no further run may begin."""
    return args.minutes is not None and time.monotonic() - STARTED > 60 * args.minutes


def ours(ground: Ground, args: argparse.Namespace, logs: Path) -> list[Record]:
    """The runs on a DatabaseCluster."""
    contender = Matriarch(ground, args.namespace, args.cluster, pooler=args.pooler)
    contender.prepare()
    bench = Bench(contender.cluster, ground.nodes, logs, through=contender.database)
    settings = "pooler" if args.pooler else ""
    return measure(bench, args, product="matriarch", settings=settings, renew=contender.renew)


def peers(ground: Ground, args: argparse.Namespace, logs: Path) -> list[Record]:
    """The runs on the peer's cluster, which is taken away afterwards."""
    found: list[Record] = []
    for settings in ("default", "fastest") if args.peer_settings == "both" else (args.peer_settings,):
        if over(args):
            break
        peer = Peer(ground, f"{args.namespace}-{args.peer}", settings)
        try:
            peer.renew()
            cluster: Contender = peer.cluster
            bench = Bench(cluster, ground.nodes, logs / settings)
            found += measure(bench, args, product=args.peer, settings=settings, renew=peer.renew)
        finally:
            peer.cluster.remove()
    return found


def told(own: Sequence[Record], others: Sequence[Record]) -> list[dict[str, Any]]:
    """One object for each fault: ours, with the peer's in it; the peer's alone where ours was left out."""
    objects = []
    for fault in by_fault([*own, *others]):
        mine = [one for one in own if one.fault == fault]
        theirs: dict[str, list[Record]] = {}
        for one in others:
            if one.fault == fault:
                theirs.setdefault(one.settings, []).append(one)
        sums = [summary(fault, runs) for runs in theirs.values()]
        if mine:
            objects.append({**summary(fault, mine), **({"peer": sums} if sums else {})})
        else:
            objects += sums
    return objects


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 when one of our runs lost a write, or its writes never came back, or nothing could be run."""
    args = parser().parse_args(arguments)
    if args.only_peer and not args.peer:
        print("--only-peer needs --peer", file=sys.stderr)
        return 2
    if args.table:
        with args.records.open() as lines:
            print(markdown(parse(lines), list(FAULTS)))
        return 0
    # A plain `kill` must leave no cut node and no stopped API server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    own: list[Record] = []
    others: list[Record] = []
    try:
        ground = kubernetes(args.name)
        logs = Path(tempfile.mkdtemp(prefix="failover-"))
        if not args.only_peer:
            own = ours(ground, args, logs / "matriarch")
        if args.peer:
            others = peers(ground, args, logs / args.peer)
    except DevError as e:
        print(f"failover: {e}", file=sys.stderr)
        return 1
    if not args.json:
        for group in {one.contender: None for one in [*own, *others]}:
            print(f"{group}\n{readable([one for one in [*own, *others] if one.contender == group])}\n")
    for one in told(own, others):
        print(json.dumps(one))
    return 1 if any(one.lost or not one.back or not one.healed for one in own) else 0


if __name__ == "__main__":
    sys.exit(main())
