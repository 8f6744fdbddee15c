"""The rules that span fields, in CEL for the API server and in Python for the controller.

Every message says what is wrong, why, and what to do. The API server weighs each expression before it accepts a
definition, so all lists, maps and strings that a rule looks at have bounds in the models.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from matriarch.api.model import QUANTITY, Rule
from matriarch.postgres.owned import OWNED, refusal

if TYPE_CHECKING:
    from matriarch.api.database_cluster import DatabaseCluster, DatabaseClusterSpec

VERSIONS = ("17",)
"""Major versions of PostgreSQL that this release runs."""

NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
PARAMETER_NAME = r"^[a-z_][a-z0-9_]*([.][a-z_][a-z0-9_]*)?$"
MINIMUM_STORAGE = "256Mi"

_UNITS: dict[str, Decimal | int] = {"": 1, "m": Decimal("0.001")}
_UNITS |= {unit: 1000**power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)}
_UNITS |= {unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}


def quantity(text: str) -> Decimal:
    """The value of a Kubernetes quantity. Raises ValueError when it is none."""
    if not re.fullmatch(QUANTITY, text):
        raise ValueError(f"{text} is not a quantity")
    number, unit = re.findall(r"^([\d.]+(?:[eE][-+]?\d+)?)([a-zA-Z]*)$", text)[0]
    return Decimal(number) * _UNITS[unit]


def _words(names: tuple[str, ...]) -> str:
    return "[" + ", ".join(f"'{name}'" for name in names) + "]"


# --- parameters ---------------------------------------------------------------------------------------------------

LOWER_CASE = Rule(
    cel=f"!has(self.parameters) || self.parameters.all(name, name.matches('{PARAMETER_NAME}'))",
    message="parameter names are written in lower case with at most one dot, as in work_mem and pgaudit.log",
    field=".parameters",
    broken=lambda s: not all(re.fullmatch(PARAMETER_NAME, name) for name in s.parameters or {}),
)


def _sets(name: str) -> Callable[[Any], bool]:
    return lambda spec: name in (spec.parameters or {})


# One rule a name: looking a key up costs next to nothing, while a message that names a key found by a search would
# exceed the budget that the API server grants to a definition.
PARAMETERS: tuple[Rule, ...] = (
    LOWER_CASE,
    *(
        Rule(
            cel=f"!has(self.parameters) || !('{name}' in self.parameters)",
            message=refusal(name),
            field=".parameters",
            broken=_sets(name),
        )
        for name in OWNED
    ),
)

# --- DatabaseCluster ----------------------------------------------------------------------------------------------


_KNOWN_VERSIONS = f'this release runs {", ".join(VERSIONS)}. Write version: "{VERSIONS[-1]}"'


def _version(spec: DatabaseClusterSpec) -> str | None:
    return None if spec.version in VERSIONS else f"version {spec.version} is not known: {_KNOWN_VERSIONS}"


def _number_too_high(spec: DatabaseClusterSpec) -> bool:
    sync = spec.replication.sync if spec.replication else None
    return sync is not None and sync.number is not None and sync.number >= spec.instances


def _instances(cluster: DatabaseCluster) -> set[str]:
    return {f"{cluster.metadata.name}-{n}" for n in range(1, cluster.spec.instances + 1)}


def _stray_priority(cluster: DatabaseCluster) -> bool:
    replication = cluster.spec.replication
    named = {p.instance for p in (replication.priorities if replication else None) or []}
    return not named <= _instances(cluster)


def _delayed(spec: DatabaseClusterSpec) -> set[str]:
    return {d.instance for d in (spec.replication.delayed if spec.replication else None) or []}


def _stray_delayed(cluster: DatabaseCluster) -> bool:
    named = _delayed(cluster.spec)
    return not named <= _instances(cluster) or cluster.spec.primary in named


def _too_many_delayed(spec: DatabaseClusterSpec) -> bool:
    named = _delayed(spec)
    sync = spec.replication.sync if spec.replication else None
    return bool(named) and ((sync.number if sync else None) or 0) + len(named) >= spec.instances


def _is_instance(name: str) -> str:
    """CEL: `name` is `<cluster>-N` with N up to instances. Its schema says that it ends in a dash and one digit."""
    return (
        f"{name}.size() == self.metadata.name.size() + 2 && {name}.startsWith(self.metadata.name) &&"
        f" int({name}.substring({name}.size() - 1)) <= self.spec.instances"
    )


def not_pooler(cel: str, field: str, name: Callable[[Any], str]) -> Rule:
    """`orders-pooler-rw` is a Service of `orders`, and would be one of a cluster called `orders-pooler`."""
    return Rule(
        cel=f"!{cel}.endsWith('-pooler')",
        message="a cluster's name cannot end in -pooler, because another cluster's objects may be called so: choose"
        " another name",
        field=field,
        broken=lambda part: name(part).endswith("-pooler"),
    )


def not_backup(cel: str, field: str, name: Callable[[Any], str]) -> Rule:
    """`orders-backup` is the ServiceAccount of the Jobs of `orders`: no cluster can be called so."""
    return Rule(
        cel=f"!{cel}.endsWith('-backup')",
        message="a cluster's name cannot end in -backup, because another cluster's objects may be called so: choose"
        " another name",
        field=field,
        broken=lambda part: name(part).endswith("-backup"),
    )


CLUSTER_OBJECT: tuple[Rule, ...] = (
    Rule(
        cel=f"self.metadata.name.size() <= 40 && self.metadata.name.matches('{NAME}')",
        message="a cluster's name has at most 40 characters of a-z, 0-9 and -, and starts with a letter, because"
        " Services and Pods carry it: choose another name",
        field=".metadata.name",
        broken=lambda c: len(c.metadata.name) > 40 or not re.fullmatch(NAME, c.metadata.name),
    ),
    not_backup("self.metadata.name", ".metadata.name", lambda c: c.metadata.name),
    not_pooler("self.metadata.name", ".metadata.name", lambda c: c.metadata.name),
    Rule(
        cel=f"!has(self.spec.primary) || ({_is_instance('self.spec.primary')})",
        message="primary is not an instance of this cluster: name <cluster>-1 to <cluster>-<instances>, or remove it",
        field=".spec.primary",
        broken=lambda c: c.spec.primary is not None and c.spec.primary not in _instances(c),
    ),
    Rule(
        cel="!has(self.spec.replication) || !has(self.spec.replication.priorities) ||"
        f" self.spec.replication.priorities.all(p, {_is_instance('p.instance')})",
        message="priorities name an instance that this cluster does not have: name <cluster>-1 to"
        " <cluster>-<instances>, or remove the entry",
        field=".spec.replication.priorities",
        broken=_stray_priority,
    ),
    Rule(
        cel="!has(self.spec.replication) || !has(self.spec.replication.delayed) ||"
        f" self.spec.replication.delayed.all(d, {_is_instance('d.instance')} &&"
        " (!has(self.spec.primary) || d.instance != self.spec.primary))",
        message="delayed names an instance that this cluster does not have, or the one that should be primary: name"
        " <cluster>-1 to <cluster>-<instances>, and not spec.primary",
        field=".spec.replication.delayed",
        broken=_stray_delayed,
    ),
)

CLUSTER_SPEC: tuple[Rule, ...] = (
    Rule(
        cel="!has(self.engine) || self.engine != 'sqlite'",
        message="engine sqlite is not yet supported: use postgresql",
        field=".engine",
        broken=lambda s: s.engine == "sqlite",
    ),
    Rule(
        cel="(has(self.engine) ? self.engine : 'postgresql') == (has(oldSelf.engine) ? oldSelf.engine : 'postgresql')",
        message="engine cannot change: make a new cluster and move the data",
        field=".engine",
    ),
    Rule(
        cel=f"string(self.version) in {_words(VERSIONS)}",
        message=f"version is not known: {_KNOWN_VERSIONS}",
        message_cel=f"'version ' + string(self.version) + ' is not known: {_KNOWN_VERSIONS}'",
        field=".version",
        broken=_version,
    ),
    Rule(
        cel="!has(self.replication) || !has(self.replication.sync) || !has(self.replication.sync.number) ||"
        " self.replication.sync.number < self.instances",
        message="sync.number must be below instances, because a write can wait for the other instances only: lower"
        " sync.number or raise instances",
        field=".replication.sync.number",
        broken=_number_too_high,
    ),
    Rule(
        cel="!has(self.replication) || !has(self.replication.delayed) || self.replication.delayed.size() == 0 ||"
        " (has(self.replication.sync) && has(self.replication.sync.number) ? self.replication.sync.number : 0) +"
        " self.replication.delayed.size() < self.instances",
        message="too many instances are delayed: beside the primary, sync.number instances must not be, because"
        " delayed ones acknowledge nothing and are never primary; raise instances or delay fewer",
        field=".replication.delayed",
        broken=_too_many_delayed,
    ),
    Rule(
        cel="(has(self.bootstrap) && has(self.bootstrap.database) ? self.bootstrap.database : 'app') =="
        " (has(oldSelf.bootstrap) && has(oldSelf.bootstrap.database) ? oldSelf.bootstrap.database : 'app')",
        message="bootstrap.database cannot change, because it was made when the cluster was born: put the old value"
        " back and rename the database with SQL",
        field=".bootstrap",
    ),
    Rule(
        cel="(has(self.bootstrap) && has(self.bootstrap.owner) ? self.bootstrap.owner : 'app') =="
        " (has(oldSelf.bootstrap) && has(oldSelf.bootstrap.owner) ? oldSelf.bootstrap.owner : 'app')",
        message="bootstrap.owner cannot change, because it was made when the cluster was born: put the old value back",
        field=".bootstrap",
    ),
    Rule(
        cel="!has(oldSelf.replica) || !oldSelf.replica.enabled || has(self.replica)",
        message="replica cannot be removed while it is enabled, because the cluster follows its source: set"
        " replica.enabled: false with a promotionToken first",
        field=".replica",
    ),
    *PARAMETERS,
)

POOLER: tuple[Rule, ...] = (
    Rule(
        cel="(has(self.minConnections) ? self.minConnections : 2) <="
        " (has(self.maxConnections) ? self.maxConnections : 10)",
        message="minConnections (2 if absent) must not exceed maxConnections (10 if absent): a pool cannot keep more"
        " than it may open",
        broken=lambda p: _or(p.min_connections, 2) > _or(p.max_connections, 10),
    ),
)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


NOT_YET = ("master-master", "cluster")
"""Words of replication.mode that the schema knows and this release refuses."""


def _mode_is(mode: str) -> Any:
    return lambda replication: replication.mode == mode


REPLICATION: tuple[Rule, ...] = tuple(
    Rule(
        cel=f"!has(self.mode) || self.mode != '{mode}'",
        message=f"replication mode {mode} is not yet supported: use primary-replica",
        field=".mode",
        broken=_mode_is(mode),
    )
    for mode in NOT_YET
)

SYNC: tuple[Rule, ...] = (
    Rule(
        cel="!has(self.mode) || self.mode != 'async' || !(has(self.number) || has(self.durability))",
        message="sync.mode async waits for no replica: remove number and durability, or write mode: quorum",
        field=".mode",
        broken=lambda s: s.mode == "async" and (s.number is not None or s.durability is not None),
    ),
)

HEALTH: tuple[Rule, ...] = (
    Rule(
        cel="(has(self.timeoutMilliseconds) ? self.timeoutMilliseconds : 5000) <="
        " (has(self.intervalMilliseconds) ? self.intervalMilliseconds : 10000)",
        message="timeoutMilliseconds (5000 if absent) must not exceed intervalMilliseconds (10000 if absent): a look"
        " must end before the next begins",
        broken=lambda h: (h.timeout_milliseconds or 5000) > (h.interval_milliseconds or 10_000),
    ),
)

_TOKEN = r"^mt1[.][-_a-zA-Z0-9]+[.][0-9a-f]{8}$"  # noqa: S105 - what one looks like

REPLICA: tuple[Rule, ...] = (
    Rule(
        cel="!self.enabled || (!has(self.promotionToken) && !has(self.promotion))",
        message="promotionToken and promotion belong to enabled: false, because they end following: remove them, or set"
        " enabled: false to promote",
        broken=lambda r: r.enabled and (r.promotion_token is not None or r.promotion is not None),
    ),
    Rule(
        cel="!has(self.promotionToken) || !has(self.promotion)",
        message="promotionToken and promotion: forced exclude each other: with the token nothing is lost, so remove"
        " promotion; without the source the token is never fulfilled, so remove promotionToken",
        broken=lambda r: r.promotion_token is not None and r.promotion is not None,
    ),
    Rule(
        cel=f"!has(self.promotionToken) || self.promotionToken.matches('{_TOKEN}')",
        message="promotionToken is not a demotion token: copy status.demotionToken of the demoted cluster whole",
        field=".promotionToken",
        broken=lambda r: r.promotion_token is not None and not re.fullmatch(_TOKEN, r.promotion_token),
    ),
)

SIZE = Rule(
    cel=f"!has(self.size) || quantity(self.size).compareTo(quantity('{MINIMUM_STORAGE}')) >= 0",
    message=f"size must be {MINIMUM_STORAGE} or more, because PostgreSQL needs that much when it is empty: write a"
    " unit, as in 10Gi",
    field=".size",
    broken=lambda s: s.size is not None and quantity(s.size) < quantity(MINIMUM_STORAGE),
)

STORAGE: tuple[Rule, ...] = (
    SIZE,
    Rule(
        cel="quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0",
        message="size cannot shrink, because no volume can: put the old size back, or restore a backup into a new"
        " cluster",
        message_cel="'size cannot shrink from ' + oldSelf.size + ' to ' + self.size + ', because no volume can: put the"
        " old size back, or restore a backup into a new cluster'",
        field=".size",
    ),
    Rule(
        cel="has(self.storageClassName) == has(oldSelf.storageClassName) &&"
        " (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
        message="storageClassName cannot change, because volumes keep their class: put the old value back, or restore a"
        " backup into a new cluster",
    ),
)


def _request_above_limit(resources: Any) -> bool:
    limits = resources.limits or {}
    return any(
        name in limits and _is_above(amount, limits[name]) for name, amount in (resources.requests or {}).items()
    )


def _is_above(amount: str, limit: str) -> bool:
    try:
        return quantity(amount) > quantity(limit)
    except ValueError:
        return False  # not a quantity: another rule says so


def _not_quantities(resources: Any) -> bool:
    amounts = [*(resources.requests or {}).values(), *(resources.limits or {}).values()]
    return not all(re.fullmatch(QUANTITY, amount) for amount in amounts)


_QUANTITY_CEL = "r'" + QUANTITY + "'"

RESOURCES: tuple[Rule, ...] = (
    Rule(
        cel=f"(!has(self.requests) || self.requests.all(n, string(self.requests[n]).matches({_QUANTITY_CEL}))) &&"
        f" (!has(self.limits) || self.limits.all(n, string(self.limits[n]).matches({_QUANTITY_CEL})))",
        message="requests and limits hold Kubernetes quantities, such as 500m, 2 and 4Gi",
        broken=_not_quantities,
    ),
    Rule(
        cel="!has(self.requests) || !has(self.limits) || self.requests.all(n, !(n in self.limits) ||"
        " !isQuantity(string(self.requests[n])) || !isQuantity(string(self.limits[n])) ||"
        " quantity(string(self.requests[n])).compareTo(quantity(string(self.limits[n]))) <= 0)",
        message="a request is above its limit: lower the request or raise the limit",
        broken=_request_above_limit,
    ),
)
