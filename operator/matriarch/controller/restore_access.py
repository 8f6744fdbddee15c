"""The superuser's certificate of a restore: made for one Restore, short-lived, taken away at its end."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta

from matriarch.controller import pki
from matriarch.controller.env import Env
from matriarch.errors import Unavailable
from matriarch.kube.client import Object
from matriarch.resources import names
from matriarch.resources.job import DEADLINE, labels

LIFE = timedelta(seconds=DEADLINE) + timedelta(hours=1)


def secret_name(cluster: str) -> str:
    """`orders-restore-tls`."""
    return f"{cluster}-restore-tls"


async def grant(env: Env, restore: Object, cluster: str, now: datetime) -> None:
    """Make the certificate unless this Restore has it already. Gone with the Restore at the latest.

    Raises Unavailable while the cluster has no authority to sign it.
    """
    namespace, uid = restore["metadata"]["namespace"], restore["metadata"]["uid"]
    there = await env.kube.get("Secret", namespace, secret_name(cluster))
    if there is not None:
        if _belongs(there, uid):
            return
        await env.kube.delete("Secret", namespace, secret_name(cluster), uid=there["metadata"]["uid"])
    authority = await env.kube.get("Secret", namespace, names.authority(cluster))
    certificate, key = pki.text(authority, "tls.crt"), pki.text(authority, "tls.key")
    if not certificate or not key:
        raise Unavailable(f"cluster {cluster} has no certificate authority yet")
    pair = pki.issue(pki.Pair(certificate, key), "postgres", (), now, LIFE, server=False)
    data = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": pki.text(authority, "ca.crt")}
    await env.kube.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {
                "name": secret_name(cluster),
                "namespace": namespace,
                "labels": labels(cluster, "restore"),
                "ownerReferences": [
                    {
                        "apiVersion": restore["apiVersion"],
                        "kind": "Restore",
                        "name": restore["metadata"]["name"],
                        "uid": uid,
                        "controller": True,
                        "blockOwnerDeletion": False,
                    }
                ],
            },
            "data": {name: base64.b64encode(text.encode()).decode() for name, text in data.items()},
        }
    )


async def revoke(env: Env, restore: Object, cluster: str) -> None:
    """Take the certificate away, if it is this Restore's."""
    namespace = restore["metadata"]["namespace"]
    there = await env.kube.get("Secret", namespace, secret_name(cluster))
    if there is not None and _belongs(there, restore["metadata"]["uid"]):
        await env.kube.delete("Secret", namespace, secret_name(cluster), uid=there["metadata"]["uid"])


def _belongs(secret: Object, uid: str) -> bool:
    return any(ref.get("uid") == uid for ref in secret["metadata"].get("ownerReferences") or ())
