"""The table of a run: what struck, how long writes stopped, and whether anything was lost. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

HEADER = (
    *("faults", "pieces", "rounds", "epochs", "operations", "acknowledged", "unknown", "lost"),
    *("median outage, s", "longest outage, s", "longest until whole, s"),
)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; `results` are the lines of a state file. `lost` is that of the pieces in which the faults struck.

    `epochs` says how often leadership was claimed anew: by an election, a planned switchover, or a reclaim.
    """
    rows: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for result in results:
        for entry in result["rounds"]:
            rows.setdefault(entry["faults"], []).append((result, entry))
    lines = ["| " + " | ".join(HEADER) + " |", "|---" + "|---:" * (len(HEADER) - 1) + "|"]
    # Single faults first, then pairs.
    lines += [_row(name, rows[name]) for name in sorted(rows, key=lambda n: ("+" in n, n))]
    if rows:
        lines.append(_row("all", [pair for pairs in rows.values() for pair in pairs]))
    return "\n".join(lines)


def _row(name: str, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    pieces = {id(result): result for result, _ in pairs}.values()
    rounds = [entry for _, entry in pairs]
    outages = [entry["outage"] for entry in rounds]
    cells = (
        name,
        str(len(pieces)),
        str(len(rounds)),
        *(
            f"{sum(entry.get(key, 0) for entry in rounds):,}"
            for key in ("epochs", "operations", "acknowledged", "unknown")
        ),
        str(sum(piece["lost"] for piece in pieces)),
        f"{statistics.median(outages):.2f}",
        f"{max(outages):.2f}",
        f"{max(entry['whole_after'] for entry in rounds):.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """The last lines of a run: how much was tried, and everything that was wrong."""
    wrong = [r for r in results if r["lost"] or r["violations"] or r["stuck"]]
    hours = sum(r["seconds"] for r in results) / 3600
    lost, stuck = sum(r["lost"] for r in results), sum(bool(r["stuck"]) for r in results)
    all_in_all = f"{len(results)} pieces in {hours:.2f} h, {len(wrong)} of them wrong"
    lines = [f"{all_in_all}; {lost} acknowledged operations lost, {stuck} times stuck"]
    for r in wrong:
        lines.append(f"piece {r['seed']}/{r['index']}, kept in {r['kept']}:")
        lines += [f"  {v}" for v in r["violations"][:10]]
        if r["stuck"]:
            lines.append(f"  stuck: {r['stuck']}")
    return "\n".join(lines)
