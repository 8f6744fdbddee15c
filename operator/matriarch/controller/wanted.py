"""The objects that a cluster should have, and those that it has and should not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from matriarch.controller import pki
from matriarch.controller.view import View
from matriarch.decide.facts import Instance, Ref
from matriarch.decide.rollout import STANDBY_NEEDS
from matriarch.decide.topology import bootstrap
from matriarch.kube.client import Object
from matriarch.postgres import parameters
from matriarch.resources import names, secrets
from matriarch.resources.access import access
from matriarch.resources.blueprint import Blueprint
from matriarch.resources.claim import claim_notes, disruption_budget
from matriarch.resources.config import KEY, config
from matriarch.resources.pooler import pooler
from matriarch.resources.services import services, slices


def wanted_of(view: View, instances: tuple[Instance, ...]) -> dict[Ref, Object]:
    """Everything that is written by apply, in the order to write it. Certificates are planned apart."""
    b = view.blueprint
    every = tuple(i.name for i in instances)
    objects = [
        *access(b, every),
        config(_staged(view, instances), _config_bootstrap(view), _published(view), closed_by=view.closed_by),
        *services(b),
        *slices(b, every),
    ]
    if (budget := disruption_budget(b)) is not None:
        objects.append(budget)
    objects += pooler(b)
    passwords = {s: pki.text(view.existing.get(Ref("Secret", s)), "password") for s in credential_secrets(b)}
    objects += [credentials(view, secret, password) for secret, password in passwords.items() if password]
    objects += [claim_notes(b, i.name) for i in instances if i.claim is not None and i.name in b.instances]
    return {Ref(o["kind"], o["metadata"]["name"]): o for o in objects}


def credential_secrets(b: Blueprint) -> list[str]:
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
    document = _published(view)
    if document is None or not isinstance(document.get("parameters"), dict):
        return b
    before: dict[str, str] = document["parameters"]
    step = parameters.change(before, b.defaults.parameters, b.defaults.version)
    raising = step.replicas_first or any(
        i.agent is not None and _is_raising(i.agent.pending, i.agent.config_generation, document) for i in instances
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


def surplus_of(view: View) -> list[Ref]:
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
