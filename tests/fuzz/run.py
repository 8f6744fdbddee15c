"""Coverage-guided fuzzing of everything that reads a store: `make fuzz ARGS="--minutes 60"`.

    python -m tests.fuzz.run --minutes 60              every target in turn, in pieces, one process at a time
    python -m tests.fuzz.run --target map --minutes 5  one of them
    python -m tests.fuzz.run --report                  what all runs found so far
    python -m tests.fuzz.run --minimise                keep in the corpus what adds coverage, and no more

libFuzzer (through Atheris) mutates; the corpus in tests/fuzz/corpus grows with what reaches code that nothing reached
before, and `make test` replays it. An input that breaks a property is left in build/fuzz/findings, and the exit code
is 1. Interrupted at any moment, it goes on from the corpus.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "fuzz"
RUNS = OUT / "runs.jsonl"
FINDINGS = OUT / "findings"
PIECE = 60  # seconds of one target before the next one has its turn
ONE_INPUT = 25  # seconds that one input may take, on a busy machine
KEPT = 120  # inputs of a target in the corpus, at most: they are replayed by every `make test`
PACKAGES = ["matriarch.backup", "matriarch.archive", "matriarch.postgres"]


def child(target: str, arguments: list[str]) -> None:
    """One piece, in a process of its own: libFuzzer ends it as it likes."""
    import atheris

    with atheris.instrument_imports(include=PACKAGES, enable_loader_override=False):
        from tests.fuzz.targets import TARGETS

    chosen = TARGETS[target]
    corpus = OUT / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(chosen.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    now = os.open(OUT / f"now-{target}", os.O_WRONLY | os.O_CREAT)

    def run(data: bytes) -> None:
        os.ftruncate(now, 0)  # for a hang that libFuzzer's alarm does not end
        os.pwrite(now, data, 0)
        chosen.run(data)

    atheris.Setup([sys.argv[0], *arguments], run)
    atheris.Fuzz()


def piece(target: str, seconds: float) -> dict[str, Any]:
    """Fuzz one target for a while; what came of it is one line of runs.jsonl."""
    corpus, found = OUT / "corpus" / target, FINDINGS / target
    for folder in (corpus, found, CORPUS / target):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    began = time.monotonic()
    errors, code = _run(
        [
            sys.executable, "-m", "tests.fuzz.run", "--child", target, str(corpus), str(CORPUS / target),
            f"-max_total_time={seconds:.0f}", f"-timeout={ONE_INPUT}", "-rss_limit_mb=1200",
            f"-max_len={_longest(target)}",
            f"-artifact_prefix={found}/", "-print_final_stats=1", "-verbosity=1",
        ],
        seconds + 180,
    )  # fmt: skip
    if code is None:
        (found / f"hang-{time.time():.0f}").write_bytes((OUT / f"now-{target}").read_bytes())
    # Coverage of before the first input of this piece counts too: the corpus is read first.
    covered = [int(n) for n in re.findall(r"\bcov: (\d+)", errors)]
    executed = re.findall(r"number_of_executed_units:\s*(\d+)", errors) or re.findall(r"^#(\d+)", errors, re.M)
    record = {
        "target": target,
        "seconds": round(time.monotonic() - began, 1),
        "executions": int(executed[-1]) if executed else 0,
        "coverage": covered[-1] if covered else 0,
        "corpus": len(list(corpus.iterdir())),
        "findings": sorted(p.name for p in set(found.iterdir()) - before),
        "exit": -1 if code is None else code,
    }
    if code != 0 and not record["findings"]:
        record["tail"] = errors[-2000:]
    elif record["findings"]:
        record["tail"] = errors[-6000:]
    RUNS.parent.mkdir(parents=True, exist_ok=True)
    with RUNS.open("a") as file:
        file.write(json.dumps(record) + "\n")
    return record


def _run(words: list[str], limit: float) -> tuple[str, int | None]:
    """What it said, and its exit code: None when it did not end."""
    try:
        done = subprocess.run(
            words, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False, timeout=limit
        )
    except subprocess.TimeoutExpired as error:
        return (error.stderr or b"").decode(errors="replace"), None
    return done.stderr, done.returncode


def _longest(target: str) -> int:
    from tests.fuzz.targets import TARGETS

    return TARGETS[target].longest


def fuzz(targets: list[str], minutes: float) -> int:
    end, bad = time.monotonic() + minutes * 60, 0
    while (left := end - time.monotonic()) > 5:
        for target in targets:
            seconds = min(PIECE, max(5.0, left / len(targets)), end - time.monotonic())
            if seconds < 1:
                break
            record = piece(target, seconds)
            shown = {k: v for k, v in record.items() if k != "tail"}
            print(json.dumps(shown), flush=True)
            if record["exit"]:
                bad += 1
                print(record.get("tail", ""), file=sys.stderr, flush=True)
    return bad


def report() -> None:
    total: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in RUNS.read_text().splitlines():
        record = json.loads(line)
        total[record["target"]].append(record)
    print(f"{'target':14} {'minutes':>8} {'executions':>11} {'coverage':>9} {'corpus':>7} {'findings':>9}")
    for target, some in sorted(total.items()):
        minutes, executions = sum(r["seconds"] for r in some) / 60, sum(r["executions"] for r in some)
        findings = sum(len(r["findings"]) for r in some)
        print(
            f"{target:14} {minutes:8.1f} {executions:11} {max(r['coverage'] for r in some):9} "
            f"{some[-1]['corpus']:7} {findings:9}"
        )
    every = [r for some in total.values() for r in some]
    print(
        f"{'all':14} {sum(r['seconds'] for r in every) / 60:8.1f} {sum(r['executions'] for r in every):11} "
        f"{'':9} {'':7} {sum(len(r['findings']) for r in every):9}"
    )


def minimise(targets: list[str]) -> None:
    """The fewest inputs that reach what all of them reach, by libFuzzer's merge, into the corpus of the repository."""
    for target in targets:
        grown, kept = OUT / "corpus" / target, OUT / "merged" / target
        kept.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                sys.executable, "-m", "tests.fuzz.run", "--child", target, "-merge=1", str(kept), str(CORPUS / target),
                str(grown),
            ],
            cwd=ROOT, capture_output=True, check=False, timeout=1200,
        )  # fmt: skip
        smallest = sorted(kept.iterdir(), key=lambda p: p.stat().st_size)[:KEPT]
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for old in (CORPUS / target).iterdir():
            if not old.name.startswith("found-"):  # what once broke a property stays
                old.unlink()
        for path in smallest:
            (CORPUS / target / path.name[:16]).write_bytes(path.read_bytes())
        print(f"{target}: {len(smallest)} inputs", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
        return
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--target", action="append", choices=sorted(TARGETS))
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--minimise", action="store_true")
    given = parser.parse_args()
    targets = given.target or list(TARGETS)
    os.environ["PYTHONPATH"] = f"{ROOT / 'operator'}{os.pathsep}{ROOT}"
    if given.report:
        report()
    elif given.minimise:
        minimise(targets)
    else:
        bad = fuzz(targets, given.minutes)
        report()
        sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
