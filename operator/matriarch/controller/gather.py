"""Reads everything that a decision about one DatabaseCluster needs, once, and puts it side by side with what is wanted.

All lists are consistent reads: a decision to delete or to initialise must not rest on something old. The agents are
asked at the same time, each with the time limit that the spec gives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from matriarch.api.defaults import fill
from matriarch.api.model import refusals
from matriarch.controller import facts_of, pki
from matriarch.controller.certify import certificates_of
from matriarch.controller.drift import comparable, is_there, leads_nowhere
from matriarch.controller.env import Env
from matriarch.controller.holds import hold
from matriarch.controller.queue import Key
from matriarch.controller.spec import against_volumes, findings, parse, wish_of
from matriarch.controller.view import ERASING, View
from matriarch.controller.wanted import credential_secrets, surplus_of, wanted_of
from matriarch.decide.certificates import plan_certificates
from matriarch.decide.facts import Facts, Instance, Ref
from matriarch.decide.leasetext import from_manifest
from matriarch.decide.lost import is_behind
from matriarch.errors import MatriarchError, Unavailable
from matriarch.kube.client import Object
from matriarch.kube.errors import NotFound
from matriarch.resources import names
from matriarch.resources.blueprint import Blueprint
from matriarch.resources.config import generation_of
from matriarch.resources.pod import pod_hash

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


async def gather(resource: Object, env: Env, *, closed_by: tuple[str, str] = ("", "")) -> View:
    """The view of one cluster. `closed_by`: uid and name of the Restore for which clients are refused.

    Raises:
        Refused: the resource cannot even be read as one.
        Unavailable: the API server did not answer.
    """
    metadata = resource["metadata"]
    key = Key("DatabaseCluster", metadata["namespace"], metadata["name"])
    now = env.now()
    existing, lease = await asyncio.gather(owned(key, env), env.kube.get("Lease", key.namespace, key.name))
    cluster = parse(resource)
    refused = refusals(cluster)
    defaults = fill(key.name, cluster.spec)
    image = cluster.spec.image or env.settings.postgres_images.get(defaults.version, "")
    if not image:
        known = ", ".join(sorted(env.settings.postgres_images))
        refused.append(f"spec.version: this operator has no image for {defaults.version}; it has {known}")
    refused += [f.message for f in findings(defaults)]
    own = env.settings.postgres_images.get(defaults.version, image)
    blueprint = Blueprint(
        cluster, defaults, image, env.settings.slice_family, own, test_mutant=env.settings.test_mutant
    )
    facts = Facts(wish=wish_of(blueprint), instances=(), memory=facts_of.memory(resource.get("status") or {}))
    view = View(resource, now, blueprint, facts, {}, existing)
    problem = _take_in(lease, view)
    restore_problem = await hold(view, env)
    view.closed_by, closed_for = closed_by
    blueprint = view.blueprint
    view.answers = await _ask(view, env)
    instances = _instances(view)
    if is_behind(view.lease.state if view.lease is not None else None, instances):
        # Mostly it moved on while the agents were asked.
        lease = await env.kube.get("Lease", key.namespace, key.name)
        problem = _take_in(lease, view)
    refused += against_volumes(blueprint, instances)
    wanted = wanted_of(view, instances)
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
        surplus=tuple(surplus_of(view)),
        certificates=plan_certificates(authority, leaves, now),
        poolers=tuple(facts_of.pooler(obj) for ref, obj in existing.items() if ref.kind == "Deployment"),
        config_generation=generation_of(wanted[Ref("ConfigMap", names.config(key.name))]),
        restore_problem=restore_problem,
        restore_name=view.restore_name or view.facts.wish.restore_name,
        closed_for=closed_for,
        policy_noted=_notes(lease).get(names.DELETION_POLICY) == view.blueprint.defaults.deletion_policy,
        passwords=tuple(
            s for s in credential_secrets(blueprint) if not pki.text(existing.get(Ref("Secret", s)), "password")
        ),
    )
    return view


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
    found = []
    for name in sorted({*b.instances, *view.there}, key=names.ordinal):
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
