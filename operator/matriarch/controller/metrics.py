"""The controller's own figures and those of each cluster's backups, in the text format that Prometheus reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Metrics:
    """Counts since the process started."""

    reconciles: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind and result (ok, conflict, unavailable, error)."""
    events: Counter[str] = field(default_factory=Counter)
    """Watch events seen, by kind."""
    clusters: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    """By namespace and name: gauges by full name, as the cluster's backups were last looked at (once a minute)."""

    schedules: dict[tuple[str, str, str], dict[str, float]] = field(default_factory=dict)
    """By namespace, cluster and schedule: what its drills say."""

    def forget_schedule(self, namespace: str, name: str) -> None:
        """The resource is gone; which cluster it was of is not known then."""
        for key in [k for k in self.schedules if (k[0], k[2]) == (namespace, name)]:
            del self.schedules[key]

    def text(self, gauges: dict[str, float]) -> str:
        """All figures; `gauges` are values of this moment by full name."""
        lines = ["# TYPE matriarch_controller_reconciles_total counter"]
        lines += [
            f'matriarch_controller_reconciles_total{{kind="{kind}",result="{result}"}} {count}'
            for (kind, result), count in sorted(self.reconciles.items())
        ]
        lines.append("# TYPE matriarch_controller_events_total counter")
        lines += [f'matriarch_controller_events_total{{kind="{k}"}} {n}' for k, n in sorted(self.events.items())]
        for name, value in sorted(gauges.items()):
            lines += [f"# TYPE {name} gauge", f"{name} {value:g}"]
        for name in sorted({n for figures in self.clusters.values() for n in figures}):
            lines.append(f"# TYPE {name} gauge")
            lines += [
                f'{name}{{namespace="{namespace}",cluster="{cluster}"}} {figures[name]:.15g}'
                for (namespace, cluster), figures in sorted(self.clusters.items())
                if name in figures
            ]
        for name in sorted({n for figures in self.schedules.values() for n in figures}):
            lines.append(f"# TYPE {name} gauge")
            lines += [
                f'{name}{{namespace="{space}",cluster="{cluster}",schedule="{schedule}"}} {figures[name]:.15g}'
                for (space, cluster, schedule), figures in sorted(self.schedules.items())
                if name in figures
            ]
        return "\n".join(lines) + "\n"


METRICS = Metrics()
