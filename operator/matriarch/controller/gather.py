"""Reads everything that a decision about one DatabaseCluster needs, once, and puts it side by side with what is wanted.

All lists are consistent reads: a decision to delete or to initialise must not rest on something old. The agents are
asked at the same time, each with the time limit that the spec gives.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.defaults import ClusterDefaults, fill
from matriarch.api.model import refusals
from matriarch.api.rules import quantity
from matriarch.controller import facts_of, pki
from matriarch.controller.agents import Door
from matriarch.controller.drift import comparable, is_there, leads_nowhere
from matriarch.controller.env import Env
from matriarch.controller.queue import Key
from matriarch.decide.certificates import Authority, Leaf, plan_certificates
from matriarch.decide.conditions import LOSS_SEEN
from matriarch.decide.facts import Facts, Instance, Ref, Wish
from matriarch.decide.leasetext import LeaseRead, from_manifest
from matriarch.decide.lost import is_behind
from matriarch.decide.rollout import STANDBY_NEEDS
from matriarch.decide.topology import bootstrap
from matriarch.errors import MatriarchError, Unavailable
from matriarch.kube.client import Object
from matriarch.kube.errors import NotFound
from matriarch.postgres import parameters
from matriarch.postgres.settings import SHARED_DEFAULTS
from matriarch.resources import names, secrets
from matriarch.resources.access import access
from matriarch.resources.blueprint import Blueprint
from matriarch.resources.claim import claim_notes, disruption_budget
from matriarch.resources.config import KEY, config, generation_of
from matriarch.resources.pod import pod_hash
from matriarch.resources.pooler import hosts as pooler_hosts
from matriarch.resources.pooler import pooler
from matriarch.resources.services import services, slices

LISTED = (
    "Pod",
    "PersistentVolumeClaim",
    "Service",
    "Secret",
    "ConfigMap",
    "EndpointSlice",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "PodDisruptionBudget",
    "Deployment",
)
_RESERVED = 10  # connections that the superuser and the agent take
ERASING = "matriarch.dev/erasing"  # on the Lease: a deletion with its data has begun


@dataclass(slots=True)
class View:
    """The facts, and the objects behind them for those who act. `existing` grows while actions are carried out."""

    resource: Object
    now: datetime
    blueprint: Blueprint
    facts: Facts
    wanted: dict[Ref, Object]
    existing: dict[Ref, Object]
    lease: LeaseRead | None = None
    lease_object: Object | None = None  # as read, also where its state can't be
    answers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    restore_name: str = ""  # of the Restore that holds this cluster up

    @property
    def authority(self) -> Object | None:
        """The Secret of the certificate authority, if there is one."""
        return self.existing.get(Ref("Secret", names.authority(self.blueprint.name)))

    @property
    def door(self) -> Door | None:
        """How to reach the agents, if the cluster has an authority yet."""
        return door_of(self.blueprint.namespace, self.blueprint.name, self.authority)


def door_of(namespace: str, cluster: str, authority: Object | None) -> Door | None:
    """How to reach the agents of a cluster, given its authority's Secret."""
    certificate, key = pki.text(authority, "tls.crt"), pki.text(authority, "tls.key")
    if not certificate or not key:
        return None
    return Door(namespace, cluster, pki.Pair(certificate, key), pki.text(authority, "ca.crt") or certificate)


async def resource_of(key: Key, env: Env) -> Object | None:
    """The DatabaseCluster, or None when it is certain that there is none.

    While the definition itself is missing or not served every single one seems to be gone: then nothing is known.
    """
    found = await env.kube.get("DatabaseCluster", key.namespace, key.name)
    if found is not None:
        return found
    try:
        others = await env.kube.list("DatabaseCluster", key.namespace)
    except NotFound as e:
        raise Unavailable("the API server does not serve DatabaseClusters now; is the definition installed?") from e
    return next((o for o in others if o["metadata"]["name"] == key.name), None)


async def owned(key: Key, env: Env) -> dict[Ref, Object]:
    """Every labelled object of the cluster, and the Secrets of its credentials even if the label is missing."""
    labels = {names.CLUSTER_LABEL: key.name}
    lists = await asyncio.gather(*(env.kube.list(kind, key.namespace, labels) for kind in LISTED))
    found = {Ref(o["kind"], o["metadata"]["name"]): o for objects in lists for o in objects}
    for secret in (names.app_secret(key.name), names.authority(key.name)):
        if (ref := Ref("Secret", secret)) not in found and (obj := await env.kube.get("Secret", key.namespace, secret)):
            found[ref] = obj
    return found


async def gather(resource: Object, env: Env) -> View:
    """The view of one cluster.

    Raises:
        Refused: the resource cannot even be read as one.
        Unavailable: the API server did not answer.
    """
    metadata = resource["metadata"]
    key = Key("DatabaseCluster", metadata["namespace"], metadata["name"])
    now = env.now()
    existing, lease = await asyncio.gather(owned(key, env), env.kube.get("Lease", key.namespace, key.name))
    cluster = _parse(resource)
    refused = refusals(cluster)
    defaults = fill(key.name, cluster.spec)
    image = cluster.spec.image or env.settings.postgres_images.get(defaults.version, "")
    if not image:
        known = ", ".join(sorted(env.settings.postgres_images))
        refused.append(f"spec.version: this operator has no image for {defaults.version}; it has {known}")
    refused += [f.message for f in _findings(defaults)]
    own = env.settings.postgres_images.get(defaults.version, image)
    blueprint = Blueprint(
        cluster, defaults, image, env.settings.slice_family, own, test_mutant=env.settings.test_mutant
    )
    facts = Facts(wish=_wish(blueprint), instances=(), memory=facts_of.memory(resource.get("status") or {}))
    view = View(resource, now, blueprint, facts, {}, existing)
    problem = _take_in(lease, view)
    restore_problem = await _hold(view, env)
    blueprint = view.blueprint
    view.answers = await _ask(view, env)
    instances = _instances(view)
    if is_behind(view.lease.state if view.lease is not None else None, instances):
        # Mostly it moved on while the agents were asked.
        lease = await env.kube.get("Lease", key.namespace, key.name)
        problem = _take_in(lease, view)
    refused += _against_volumes(blueprint, instances)
    wanted = _wanted(view, instances)
    authority, leaves = certificates_of(view, now)
    view.wanted = wanted
    view.facts = replace(
        facts,
        instances=instances,
        lease=view.lease.state if view.lease is not None else None,
        lease_problem=problem,
        erasing=ERASING in _notes(lease),
        refusals=tuple(refused),
        missing=tuple(
            ref
            for ref, obj in wanted.items()
            if not is_there(comparable(obj), existing.get(ref)) or leads_nowhere(obj, existing.get(ref))
        ),
        surplus=tuple(_surplus(view)),
        certificates=plan_certificates(authority, leaves, now),
        poolers=tuple(facts_of.pooler(obj) for ref, obj in existing.items() if ref.kind == "Deployment"),
        config_generation=generation_of(wanted[Ref("ConfigMap", names.config(key.name))]),
        restore_problem=restore_problem,
        restore_name=view.restore_name or view.facts.wish.restore_name,
        policy_noted=_notes(lease).get(names.DELETION_POLICY) == view.blueprint.defaults.deletion_policy,
        passwords=tuple(s for s in _credentials(blueprint) if not pki.text(existing.get(Ref("Secret", s)), "password")),
    )
    return view


async def _hold(view: View, env: Env) -> str:
    """While a Restore is to fill the first volume, what is made goes with the resource: it was never anybody's data.

    Why that Restore will not do it any more, as a sentence; empty while it may.
    """
    wish, lease = view.facts.wish, view.lease
    if lease is not None and lease.state.suspended:
        return await _suspension(view, env)
    if not (lease.state.held if lease is not None else bool(wish.restore) and not _began(view)):
        return ""
    b = view.blueprint
    view.blueprint = replace(b, defaults=replace(b.defaults, deletion_policy="Delete"))
    found = await env.kube.get("Restore", b.namespace, wish.restore_name) if wish.restore_name else None
    uid = lease.state.filling.restore if lease is not None and lease.state.filling is not None else wish.restore
    if found is None or found["metadata"]["uid"] != uid:
        return f"Restore {wish.restore_name or uid}, which was to bring the data, is gone."
    if (found.get("status") or {}).get("phase") == "Failed":
        return f"Restore {wish.restore_name}, which was to bring the data, failed."
    return ""


def _began(view: View) -> bool:
    """Whether anything shows that this is not a new cluster: a Lease, though it cannot be read, or a volume.

    Without the Lease nothing says whether a Restore has yet to fill that one, so it is kept as the spec wants.
    """
    claims = any(ref.kind == "PersistentVolumeClaim" for ref in view.existing)
    return view.lease_object is not None or claims or bool(view.facts.memory.system_identifier)


async def _suspension(view: View, env: Env) -> str:
    """Why the Restore in place that holds this cluster up will not go on, as a sentence; empty while it may."""
    assert view.lease is not None
    assert view.lease.state.filling is not None
    uid = view.lease.state.filling.restore
    restores = await env.kube.list("Restore", view.blueprint.namespace)
    found = next((r for r in restores if r["metadata"]["uid"] == uid), None)
    if found is None or found["metadata"].get("deletionTimestamp"):
        return f"The Restore of uid {uid} is gone."
    name = view.restore_name = str(found["metadata"]["name"])
    phase = (found.get("status") or {}).get("phase")
    return f"Restore {name} is over ({phase})." if phase in ("Failed", "Complete") else ""


def _notes(lease: Object | None) -> Mapping[str, str]:
    return (lease["metadata"].get("annotations") or {}) if lease is not None else {}


def _take_in(lease: Object | None, view: View) -> str:
    """The Lease into the view; why its state can't be read, empty when it can."""
    view.lease, view.lease_object = None, lease
    if lease is None:
        return ""
    try:
        view.lease = from_manifest(lease)
    except ValueError as e:
        return str(e)
    return ""


def _parse(resource: Object) -> DatabaseCluster:
    try:
        return DatabaseCluster.model_validate(resource)
    except ValidationError as e:
        said = "; ".join(f"{'.'.join(map(str, d['loc']))}: {d['msg']}" for d in e.errors()[:5])
        raise Unreadable(f"the resource cannot be read ({said}); correct it") from e


class Unreadable(MatriarchError):  # noqa: N818 - reads as the outcome it is
    """A stored resource that today's schema would not let in."""


def _findings(defaults: ClusterDefaults) -> list[parameters.Finding]:
    try:
        return parameters.validate(defaults.parameters, defaults.version)
    except MatriarchError:
        return []  # an unknown version, which the rules have refused already


def _wish(b: Blueprint) -> Wish:
    d, spec, annotations = b.defaults, b.cluster.spec, b.cluster.metadata.annotations
    restore_name, _, restore = annotations.get(names.FILLED_BY, "").partition("/")
    return Wish(
        cluster=b.name,
        instances=b.instances,
        number=d.sync.number,
        required=d.sync.durability == "required",
        asynchronous=d.sync.mode == "async",
        loss_seen=annotations.get(LOSS_SEEN),
        primary=spec.primary,
        request=annotations.get(names.SWITCHOVER),
        restart=annotations.get(names.RESTART),
        priorities=d.priorities,
        delayed=tuple(sorted(d.delays)),
        storage=int(quantity(spec.storage.size)),
        health_interval=d.health_interval_milliseconds / 1000,
        advice=tuple(_advice(b)),
        poolers=tuple(names.pooler_door(b.name, door) for door in d.pooler.doors) if d.pooler is not None else (),
        replica=d.replica is not None and d.replica.enabled,
        source=d.replica.host if d.replica is not None else "",
        archives=d.wal_archive is not None,
        restore_name=restore_name,
        restore=restore,
    )


def _advice(b: Blueprint) -> list[str]:
    found = []
    if len(b.instances) == 2 and b.defaults.sync.durability == "required":
        found.append("With two instances and durability required, writes wait whenever either instance is away.")
    if b.cluster.spec.resources is not None and "cpu" in (b.cluster.spec.resources.limits or {}):
        found.append(
            "A CPU limit stops an instance in the middle of its heartbeats and can cause failovers; remove it."
        )
    if (d := b.defaults.pooler) is not None:
        most = d.instances * d.max_connections
        limit = b.defaults.parameters.get("max_connections", str(SHARED_DEFAULTS["max_connections"]))
        if limit.isdigit() and most > int(limit) - _RESERVED:
            found.append(
                f"{d.instances} poolers may open {most} connections for each user of each database, and max_connections"
                f" is {limit}: lower maxConnections or raise it."
            )
        if d.pool_mode == "session":
            found.append("With poolMode session a switchover ends the clients' connections.")
    return found


async def _ask(view: View, env: Env) -> dict[str, Mapping[str, Any]]:
    """The answers of the agents that can be expected to answer."""
    door = view.door
    if door is None:
        return {}
    limit = view.blueprint.defaults.health_timeout_milliseconds / 1000
    targets = {
        name: pod.ip
        for (kind, name), obj in view.existing.items()
        if kind == "Pod" and (pod := facts_of.pod(obj)).ip and pod.running
    }

    async def one(instance: str, ip: str) -> Mapping[str, Any] | None:
        try:
            return await env.agents.status(door, instance, ip, limit=limit)
        except MatriarchError:
            return None  # not answering is a fact, too

    answers = await asyncio.gather(*(one(i, ip) for i, ip in targets.items()))
    return {i: a for i, a in zip(targets, answers, strict=True) if a is not None}


def _instances(view: View) -> tuple[Instance, ...]:
    """The wanted instances and those that are there."""
    b = view.blueprint
    known = {n for kind, n in view.existing if kind in {"Pod", "PersistentVolumeClaim"} and _is_instance(b.name, n)}
    found = []
    for name in sorted({*b.instances, *known}, key=names.ordinal):
        pod, claim = view.existing.get(Ref("Pod", name)), view.existing.get(Ref("PersistentVolumeClaim", name))
        answer = view.answers.get(name)
        found.append(
            Instance(
                name=name,
                wanted_hash=pod_hash(b, name),
                pod=facts_of.pod(pod) if pod is not None else None,
                claim=facts_of.claim(claim) if claim is not None else None,
                agent=facts_of.agent(answer) if answer is not None else None,
            )
        )
    return tuple(found)


def _is_instance(cluster: str, name: str) -> bool:
    return name in names.instances(cluster, 9)


def _against_volumes(b: Blueprint, instances: tuple[Instance, ...]) -> list[str]:
    """What a spec may not ask of volumes that are there already (the schema guards only changes of one resource)."""
    found = []
    size = int(quantity(b.cluster.spec.storage.size))
    larger = [i.name for i in instances if i.claim is not None and i.claim.requested > size]
    if larger:
        found.append(
            f"spec.storage.size: the volumes of {', '.join(larger)} are larger than {b.cluster.spec.storage.size} "
            "and cannot shrink; ask for at least their size"
        )
    other = {i.claim.version for i in instances if i.claim is not None and i.claim.version} - {b.defaults.version}
    if other:
        found.append(
            f"spec.version: the volumes hold data of PostgreSQL {', '.join(sorted(other))}, "
            f"which {b.defaults.version} cannot read; set that version"
        )
    return found


def _credentials(b: Blueprint) -> list[str]:
    found = [names.app_secret(b.name)]
    if b.defaults.superuser_access:
        found.append(names.superuser_secret(b.name))
    return found


def credentials(view: View, secret: str, password: str) -> Object:
    """The Secret with its password in all forms."""
    b = view.blueprint
    superuser = secret == names.superuser_secret(b.name)
    return secrets.credentials(
        b,
        secret,
        user="postgres" if superuser else b.defaults.owner,
        database="postgres" if superuser else b.defaults.database,
        password=password,
        authority=pki.text(view.authority, "ca.crt"),
    )


def _wanted(view: View, instances: tuple[Instance, ...]) -> dict[Ref, Object]:
    """Everything that is written by apply, in the order to write it. Certificates are planned apart."""
    b = view.blueprint
    every = tuple(i.name for i in instances)
    objects = [
        *access(b, every),
        config(_staged(view, instances), _config_bootstrap(view), _published(view)),
        *services(b),
        *slices(b, every),
    ]
    if (budget := disruption_budget(b)) is not None:
        objects.append(budget)
    objects += pooler(b)
    passwords = {s: pki.text(view.existing.get(Ref("Secret", s)), "password") for s in _credentials(b)}
    objects += [credentials(view, secret, password) for secret, password in passwords.items() if password]
    objects += [claim_notes(b, i.name) for i in instances if i.claim is not None and i.name in b.instances]
    return {Ref(o["kind"], o["metadata"]["name"]): o for o in objects}


def _config_bootstrap(view: View) -> str:
    return view.lease.state.bootstrap if view.lease is not None else bootstrap(view.facts.wish)


def _published(view: View) -> Mapping[str, Any] | None:
    found = view.existing.get(Ref("ConfigMap", names.config(view.blueprint.name)))
    try:
        document = json.loads(((found or {}).get("data") or {}).get(KEY) or "null")
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _staged(view: View, instances: tuple[Instance, ...]) -> Blueprint:
    """Raised and lowered parameters of which standbys need the primary's value are published one after the other.

    Raised ones go to the replicas first, lowered ones to the primary first, so both cannot be in one restart.
    """
    b = view.blueprint
    published = _published(view)
    if published is None or not isinstance(published.get("parameters"), dict):
        return b
    before: dict[str, str] = published["parameters"]
    step = parameters.change(before, b.defaults.parameters, b.defaults.version)
    raising = step.replicas_first or any(
        i.agent is not None and _is_raising(i.agent.pending, i.agent.config_generation, published) for i in instances
    )
    if not step.primary_first or not raising:
        return b
    held = {k: v for k, v in b.defaults.parameters.items() if k not in step.primary_first}
    held |= {k: before[k] for k in step.primary_first if k in before}
    return replace(b, defaults=replace(b.defaults, parameters=held))


def _is_raising(pending: Mapping[str, tuple[str, str]], generation: int, published: Mapping[str, Any]) -> bool:
    """This agent has yet to see what is published, or to restart for a raised value."""
    if generation < int(published.get("generation") or 0):
        return True
    return any(
        old.isdigit() and new.isdigit() and int(new) > int(old)
        for name, (old, new) in pending.items()
        if name in STANDBY_NEEDS
    )


def _surplus(view: View) -> list[Ref]:
    b = view.blueprint
    found = []
    optional = {
        Ref("PodDisruptionBudget", b.name): False,
        Ref("Secret", names.superuser_secret(b.name)): b.defaults.superuser_access,
        Ref("Secret", names.pooler_tls(b.name)): b.defaults.pooler is not None,
        **{ref: False for ref, obj in view.existing.items() if _is_poolers(ref, obj)},
    }
    for ref, kept_all_the_same in optional.items():
        there = view.existing.get(ref)
        kept = ref in view.wanted or kept_all_the_same
        if there is not None and not kept and "deletionTimestamp" not in there["metadata"]:
            found.append(ref)
    return [*found, *(ref for ref, obj in view.existing.items() if _is_left_over(ref, obj, view))]


def _is_poolers(ref: Ref, obj: Object) -> bool:
    """Made by the controller for a pooler; its slices are Kubernetes' own, and carry the Service's labels."""
    component = (obj["metadata"].get("labels") or {}).get("app.kubernetes.io/component")
    return component == "pooler" and ref.kind not in {"EndpointSlice", "Pod"}


def _is_left_over(ref: Ref, obj: Object, view: View) -> bool:
    """Slice and certificate of an instance of which neither Pod nor volume is left."""
    instance = (obj["metadata"].get("labels") or {}).get(names.INSTANCE_LABEL)
    if ref.kind not in {"EndpointSlice", "Secret"} or instance is None or instance in view.blueprint.instances:
        return False
    return Ref("Pod", instance) not in view.existing and Ref("PersistentVolumeClaim", instance) not in view.existing


def certificates_of(view: View, now: datetime) -> tuple[Authority | None, list[Leaf]]:
    """What there is of the authority, and every certificate that is wanted."""
    b, secret = view.blueprint, view.authority
    heartbeat = pki.text(secret, "heartbeat.key")
    authority = None
    if secret is not None:
        current = pki.describe(pki.text(secret, "tls.crt"))
        authority = Authority(
            current=current,
            usable=pki.belongs(pki.Pair(pki.text(secret, "tls.crt"), pki.text(secret, "tls.key"))),
            next=pki.describe(pki.text(secret, "next.crt")),
            previous=pki.describe(pki.text(secret, "previous.crt")),
            heartbeat=bool(heartbeat),
        )
    kept = {n for kind, n in view.existing if kind in {"Pod", "PersistentVolumeClaim"} and _is_instance(b.name, n)}
    wanted = {names.instance_tls(i): (secrets.hosts(b, i), heartbeat) for i in sorted({*b.instances, *kept})}
    wanted[names.backup_tls(b.name)] = (frozenset(), "")
    wanted[names.replica_tls(b.name)] = (frozenset(), "")
    if b.defaults.pooler is not None:
        wanted[names.pooler_tls(b.name)] = (pooler_hosts(b), "")
    leaves = []
    for leaf, (hosts, wanted_heartbeat) in wanted.items():
        found = view.existing.get(Ref("Secret", leaf))
        owners = (found or {}).get("metadata", {}).get("ownerReferences") or ()
        leaves.append(
            Leaf(
                secret=leaf,
                hosts=hosts,
                certificate=pki.describe(pki.text(found, "tls.crt")),
                bundle=pki.fingerprints(pki.text(found, "ca.crt")),
                whole=pki.text(found, "heartbeat.key") == wanted_heartbeat
                and bool(pki.text(found, "tls.key"))
                and any(o.get("uid") == b.cluster.metadata.uid for o in owners),
            )
        )
    return authority, leaves
