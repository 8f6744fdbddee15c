"""The runs of the failover bench as they are kept, one JSON object a line, and what is printed of them. Pure."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bench.figures import Figures

CLOUDNATIVEPG: Mapping[str, str] = {
    "postmaster-kill": "10.6",
    "pod-delete-now": "24.6",
    "node-cut": "82 and more",
    "api-down": "0.1",
    "postmaster-freeze": "not within 17 min",
}
"""Seconds: the median outage of CloudNativePG 1.30 on three such nodes, measured once by hand, not by this bench."""


@dataclass(frozen=True, slots=True)
class Record:
    """One run. Times in seconds; `back` is false when writes had not come back at the run's end."""

    product: str  # "matriarch", "patroni"
    settings: str  # what of the product's settings matters here, "" for its own defaults
    fault: str
    outage_s: float
    back: bool
    slowest_client_s: float
    before_s: float  # the longest gap before the fault: what this machine makes of no fault at all
    acknowledged: int
    failed: int
    unknown: int
    lost: int
    healed: bool = True  # whole again without a hand
    read: bool = True  # false: nobody knows what was lost
    errors: Mapping[str, int] = field(default_factory=dict)
    at: str = ""
    revision: str = ""
    load: float = 0.0  # processes that wanted a processor, of the whole machine, over the last minute

    @property
    def contender(self) -> str:
        return f"{self.product} {self.settings}".strip()


def record(
    seen: Figures,
    *,
    product: str,
    settings: str,
    fault: str,
    healed: bool,
    read: bool,
    at: str,
    revision: str,
    load: float,
) -> Record:
    """What is kept of a run's figures."""
    return Record(
        product=product,
        settings=settings,
        fault=fault,
        outage_s=round(seen.gap.seconds, 4),
        back=not seen.gap.open_end,
        slowest_client_s=round(seen.slowest_client, 4),
        before_s=round(seen.gap_before, 4),
        acknowledged=seen.acknowledged,
        failed=seen.failed,
        unknown=seen.unknown,
        lost=len(seen.lost),
        healed=healed,
        read=read,
        errors=seen.errors,
        at=at,
        revision=revision,
        load=round(load, 1),
    )


def line(one: Record) -> str:
    """A record as it stands in the file, with its end of line."""
    return json.dumps(asdict(one)) + "\n"


def parse(lines: Iterable[str]) -> list[Record]:
    """The records of a file. Raises ValueError or TypeError for a line that is none."""
    return [Record(**json.loads(text)) for text in lines if text.strip()]


def percentile(values: Sequence[float], share: float) -> float:
    """By nearest rank: the smallest value that at least this share (0 to 1) of all do not exceed.

    Raises ValueError without values.
    """
    if not values:
        message = "no values, no percentile"
        raise ValueError(message)
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def summary(fault: str, runs: Sequence[Record]) -> dict[str, Any]:
    """What is printed last: runs of one fault on one contender. Raises ValueError without runs."""
    outages = [run.outage_s for run in runs]
    return {
        "fault": fault,
        "runs": len(runs),
        "p50_s": round(statistics.median(outages), 3) if outages else percentile(outages, 0.5),
        "p95_s": round(percentile(outages, 0.95), 3),
        "max_s": round(max(outages), 3),
        "acknowledged": sum(run.acknowledged for run in runs),
        "lost": sum(run.lost for run in runs),
        "unknown": sum(run.unknown for run in runs),
        "failed": sum(run.failed for run in runs),
        "product": runs[0].product,
        "settings": runs[0].settings,
        "not_back": sum(not run.back for run in runs),
        "not_healed": sum(not run.healed for run in runs),
        "not_read": sum(not run.read for run in runs),
        "each_s": [round(outage, 3) for outage in outages],
    }


def by_fault(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Grouped, in the order of their first run."""
    groups: dict[str, list[Record]] = {}
    for one in records:
        groups.setdefault(one.fault, []).append(one)
    return groups


HEADER = ("fault", "runs", "p50", "p95", "max", "acknowledged", "lost", "unknown")


def readable(records: Iterable[Record]) -> str:
    """A table for people of one contender's runs, one line a fault; times in seconds."""
    rows: list[tuple[str, ...]] = [HEADER]
    for fault, runs in by_fault(records).items():
        told = summary(fault, runs)
        times = (f"{told[key]:.2f}" for key in ("p50_s", "p95_s", "max_s"))
        counts = (f"{told['acknowledged']:,}", str(told["lost"]), str(told["unknown"]))
        rows.append((fault, str(told["runs"]), *times, *counts))
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def markdown(records: Sequence[Record], faults: Sequence[str]) -> str:
    """The table of `docs/reference/failover.md`: a line for each fault, a column for each contender, ours first."""
    contenders = sorted({one.contender for one in records}, key=lambda name: (not name.startswith("matriarch"), name))
    lines = [_row("fault", *contenders, "CloudNativePG 1.30"), "|---" + "|---:" * (len(contenders) + 1) + "|"]
    for fault in faults:
        cells = [_cell([r for r in records if (r.contender, r.fault) == (name, fault)]) for name in contenders]
        if any(cell != NOTHING for cell in cells):
            lines.append(_row(fault, *cells, CLOUDNATIVEPG.get(fault, NOTHING)))
    totals = []
    for name in contenders:
        runs = [one for one in records if one.contender == name]
        unread = sum(not one.read for one in runs)
        lost = f"{sum(one.lost for one in runs)} of {sum(one.acknowledged for one in runs):,}"
        totals.append(lost + (f" ({unread} could not be read)" if unread else ""))
    return "\n".join([*lines, _row("**lost of acknowledged**", *totals, NOTHING)])


NOTHING = "–"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(runs: Sequence[Record]) -> str:
    if not runs:
        return NOTHING
    told = summary(runs[0].fault, runs)
    text = f"**{told['p50_s']:.2f}** / {told['p95_s']:.2f} / {told['max_s']:.2f} ({told['runs']})"
    notes = {"never came back": told["not_back"], "by hand": told["not_healed"], "lost": told["lost"]}
    return text + "".join(f", {count} {what}" for what, count in notes.items() if count)
