"""Histories under faults: clients write and read while things break, and what they saw is checked.

    python -m bench.history --seed 7 --hours 4        random faults, alone and in pairs; goes on where it was
    python -m bench.history --fault node-cut          each named fault alone, once (may be given several times)
    python -m bench.history --mutant no-cut           a bug built into the agents must make it find lost writes
    python -m bench.history --report                  the table of all that was run so far

The seed is printed; with the same one a run strikes the same. Results are lines in the state file; a run that was
interrupted heals what it left behind and goes on with the next piece. Of a piece that went wrong everything is kept.
Needs the local Kubernetes (kubebox), which it makes if there is none; uses a DatabaseCluster of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.history import directed, schedule
from bench.history.faults import FAULTS, NOT_HERE
from bench.history.ground import Ground
from bench.history.piece import Piece, PieceResult, say
from bench.history.report import summary, table
from dev.host import PROJECT, DevError

FIRST_GUESS = 240.0  # seconds that a piece takes, until one was measured


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.history",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults:\n"
        + "\n".join(f"  {f.name:<20} {f.about}{'' if f.by_default else ' (only with --with)'}" for f in FAULTS.values())
        + "\nnot tried:\n"
        + "\n".join(f"  {name:<20} {why}" for name, why in NOT_HERE.items()),
    )
    parser.add_argument("--seed", type=int, help="of the schedule; drawn and printed if absent")
    parser.add_argument("--hours", type=float, default=0.0, help="of pieces in all, over every run with this seed")
    parser.add_argument("--pieces", type=int, help="in all, instead of --hours; 1 if neither is given")
    parser.add_argument("--minutes", type=float, help="of this run; no piece begins that would not fit")
    parser.add_argument("--rounds", type=int, default=3, help="of faults in a piece")
    parser.add_argument(
        "--pairs", type=float, default=0.5, help="how many of the rounds are two faults at once, 0 to 1"
    )
    parser.add_argument(
        "--fault", action="append", choices=list(FAULTS), metavar="FAULT", help="these alone, each once"
    )
    parser.add_argument(
        "--with", action="append", dest="also", choices=list(FAULTS), metavar="FAULT", default=[], help="add a fault"
    )
    parser.add_argument(
        "--without", action="append", choices=list(FAULTS), metavar="FAULT", default=[], help="leave a fault out"
    )
    parser.add_argument(
        "--mutant", choices=list(directed.BY_MUTANT), help="build a bug in; then lost writes are success"
    )
    parser.add_argument("--control", choices=list(directed.BY_MUTANT), help="the same schedule without the bug")
    parser.add_argument("--state", type=Path, default=PROJECT / "build" / "histories", help="folder of results")
    parser.add_argument("--name", default=os.environ.get("NAME") or "faults", help="the local Kubernetes")
    parser.add_argument("--cluster", default="history", help="the DatabaseCluster; its namespace has the same name")
    parser.add_argument("--report", action="store_true", help="print the table of the state folder, run nothing")
    return parser


class Run:
    """The pieces of one seed, and the file in which they are remembered."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.args = args
        self.seed = seed
        self.file: Path = args.state / (f"{seed}-named.jsonl" if args.fault else f"{seed}.jsonl")
        self.results = read(self.file)

    def piece(self, ground: Ground, rounds: Sequence[schedule.Round]) -> PieceResult:
        """The next piece; its result is on the disk before this returns."""
        index = len(self.results)
        say(f"piece {self.seed}/{index}: {'; '.join(r.name for r in rounds)}")
        folder = self.args.state / f"piece-{self.seed}-{index}"
        rng = random.Random(f"{self.seed}/{index}/places")
        result = Piece(ground.cluster, ground.nodes, folder, rng).run(self.seed, index, rounds)
        self.results.append(json.loads(json.dumps(asdict(result))))
        with self.file.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        word = "good" if result.good else "WRONG"
        say(f"piece {self.seed}/{index}: {word} after {result.seconds:.0f} s {result.notes}")
        if result.stuck:
            ground.renew()
        return result

    def all_done(self) -> bool:
        if self.args.hours:
            return sum(float(r["seconds"]) for r in self.results) >= float(self.args.hours) * 3600
        return len(self.results) >= int(self.args.pieces or 1)

    def fits(self, deadline: float | None) -> bool:
        longest = max((r["seconds"] for r in self.results), default=FIRST_GUESS)
        return deadline is None or time.monotonic() + longest < deadline


def read(file: Path) -> list[dict[str, Any]]:
    """The results in a state file; a torn last line is left out."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _random(args: argparse.Namespace, ground: Ground, deadline: float | None) -> Run:
    run = Run(args, args.seed if args.seed is not None else random.randrange(1 << 31))
    print(f"seed {run.seed}, {len(run.results)} pieces done before; state in {run.file}", flush=True)
    chosen = {n: f for n, f in FAULTS.items() if (f.by_default or n in args.also) and n not in args.without}
    while not run.all_done() and run.fits(deadline):
        plan = schedule.piece(run.seed, len(run.results), chosen, rounds=args.rounds, pairs=args.pairs)
        run.piece(ground, plan)
    if not run.all_done():
        say("the time of this run is over; the same seed goes on")
    return run


def _named(args: argparse.Namespace, ground: Ground, deadline: float | None) -> Run:
    seed = args.seed if args.seed is not None else random.randrange(1 << 31)
    run = Run(args, seed)
    print(f"seed {seed}; state in {run.file}", flush=True)
    rng = random.Random(seed)
    rounds = [schedule.single(FAULTS[name], rng) for name in args.fault]
    for first in range(0, len(rounds), args.rounds):
        if not run.fits(deadline):
            say("no time is left for the rest")
            break
        run.piece(ground, rounds[first : first + args.rounds])
    return run


def _report(folder: Path) -> int:
    results = [r for file in sorted(folder.glob("*.jsonl")) for r in read(file)]
    print(f"{table(results)}\n\n{summary(results)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. 0: nothing was wrong; for a mutant: it was found."""
    args = _parser().parse_args(arguments)
    if args.report:
        return _report(args.state)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is broken is healed
    deadline = time.monotonic() + args.minutes * 60 if args.minutes else None
    args.state.mkdir(parents=True, exist_ok=True)
    try:
        ground = Ground.up(args.name, args.cluster)
        if args.mutant or args.control:
            return directed.main(ground, args.mutant, args.control, args.state)
        ground.ready()
        run = (_named if args.fault else _random)(args, ground, deadline)
    except DevError as e:
        print(f"history: {e}", file=sys.stderr)
        return 2
    print(f"\n{table(run.results)}\n\n{summary(run.results)}")
    return 1 if any(r["lost"] or r["violations"] or r["stuck"] for r in run.results) else 0


if __name__ == "__main__":
    sys.exit(main())
