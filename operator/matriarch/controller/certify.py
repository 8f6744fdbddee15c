"""What there is and should be of keys and certificates; those that `decide/certificates.py` says are due, made and
written into their Secrets."""

from __future__ import annotations

from datetime import datetime

from matriarch.controller import pki
from matriarch.controller.env import Env
from matriarch.controller.view import View
from matriarch.decide.certificates import Authority, CertificatePlan, Leaf, Step
from matriarch.decide.facts import Ref
from matriarch.kube.client import Object
from matriarch.postgres.outside import SOURCE_ROLE
from matriarch.postgres.pgbouncer import POOLER_ROLE
from matriarch.resources import names, secrets
from matriarch.resources.pooler import hosts as pooler_hosts

_PARTS = ("tls.crt", "tls.key", "ca.crt", "heartbeat.key", "next.crt", "next.key", "previous.crt")


async def carry_out(plan: CertificatePlan, view: View, env: Env) -> None:
    """The authority first, then the leaves of the plan. Updates `view.existing`."""
    b = view.blueprint
    if plan.authority is not None:
        data = authority_after(plan.authority, view, view.now)
        made = secrets.authority(b, data)
        view.existing[Ref("Secret", names.authority(b.name))] = await _write(made, view, env)
    for secret in (*plan.issue, *plan.refresh):
        await _leaf(secret, view, env, renew=secret in plan.issue)


def authority_after(step: Step, view: View, now: datetime) -> dict[str, str]:
    """The content of the authority's Secret after one step."""
    b, secret = view.blueprint, view.authority
    data = {part: text for part in _PARTS if (text := pki.text(secret, part))}
    match step:
        case Step.MAKE:
            data = _from_leaves(view)
            made = pki.make_authority(b.name, b.namespace, now)
            data |= {"tls.crt": made.certificate, "tls.key": made.key}
            data.setdefault("heartbeat.key", pki.new_heartbeat_key())
        case Step.COMPLETE:
            data["heartbeat.key"] = _from_leaves(view).get("heartbeat.key") or pki.new_heartbeat_key()
        case Step.PREPARE:
            made = pki.make_authority(b.name, b.namespace, now)
            data |= {"next.crt": made.certificate, "next.key": made.key}
        case Step.SWITCH:
            data["previous.crt"] = data["tls.crt"]
            data |= {"tls.crt": data.pop("next.crt"), "tls.key": data.pop("next.key")}
        case Step.DROP:
            data.pop("previous.crt", None)
    data["ca.crt"] = "".join(data[part] for part in ("tls.crt", "next.crt", "previous.crt") if part in data)
    return data


def _from_leaves(view: View) -> dict[str, str]:
    """What a lost authority left with its instances: the heartbeat key, and the certificate that they still trust.

    With both, a new authority is a change like any other, and heartbeats go on.
    """
    for name in view.blueprint.instances:
        leaf = view.existing.get(Ref("Secret", names.instance_tls(name)))
        heartbeat, bundle = pki.text(leaf, "heartbeat.key"), pki.text(leaf, "ca.crt")
        if heartbeat and bundle:
            return {"heartbeat.key": heartbeat, "previous.crt": pki.first(bundle)}
    return {}


async def _leaf(secret: str, view: View, env: Env, *, renew: bool) -> None:
    b, authority = view.blueprint, view.authority
    instance = next((i for i in names.instances(b.name, 9) if names.instance_tls(i) == secret), None)
    found = view.existing.get(Ref("Secret", secret))
    if renew or not pki.text(found, "tls.key"):
        signer = pki.Pair(pki.text(authority, "tls.crt"), pki.text(authority, "tls.key"))
        if instance is not None:
            name, hosts = instance, secrets.hosts(b, instance)
        elif secret == names.pooler_tls(b.name):
            name, hosts = POOLER_ROLE, pooler_hosts(b)
        elif secret == names.replica_tls(b.name):
            name, hosts = SOURCE_ROLE, frozenset()
        else:
            name, hosts = "matriarch_backup", frozenset()
        pair = pki.issue(signer, name, sorted(hosts), view.now, server=bool(hosts))
    else:
        pair = pki.Pair(pki.text(found, "tls.crt"), pki.text(found, "tls.key"))
    data = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": pki.text(authority, "ca.crt")}
    if instance is not None:
        data["heartbeat.key"] = pki.text(authority, "heartbeat.key")
    made = secrets.certificate(b, secret, data, instance=instance)
    view.existing[Ref("Secret", secret)] = await _write(made, view, env)


async def _write(secret: Object, view: View, env: Env) -> Object:
    """Create, or change exactly what was read: two controllers must never mix two pairs of keys."""
    found = view.existing.get(Ref("Secret", secret["metadata"]["name"]))
    if found is None:
        return await env.kube.create(secret)
    version = found["metadata"]["resourceVersion"]
    return await env.kube.replace({**secret, "metadata": {**secret["metadata"], "resourceVersion": version}})


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
    wanted = {names.instance_tls(i): (secrets.hosts(b, i), heartbeat) for i in sorted({*b.instances, *view.there})}
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
