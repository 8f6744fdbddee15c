"""Whether what was found is as it is wanted: what decides that an object is applied again. Pure."""

from __future__ import annotations

import copy
from typing import Any

from matriarch.kube.client import Object


def leads_nowhere(wanted: Object, found: Object | None) -> bool:
    """Credentials that still name a pooler which is not wanted any more."""
    if wanted["kind"] != "Secret" or found is None:
        return False
    return any(key.startswith("pooler") and key not in wanted["data"] for key in found.get("data") or {})


def comparable(wanted: Object) -> Object:
    """Amounts come back in another spelling; the hash among a Deployment's annotations tells of their change."""
    if wanted["kind"] != "Deployment":
        return wanted
    made = copy.deepcopy(wanted)
    for container in made["spec"]["template"]["spec"]["containers"]:
        del container["resources"]
    return made


def is_there(wanted: Any, found: Any) -> bool:
    """Whether everything that is wanted is so; what others or the API server added does not matter."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            _some(v, found.get(k)) if k == "ownerReferences" else is_there(v, found.get(k)) for k, v in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(wanted) == len(found)
            and all(is_there(w, f) for w, f in zip(wanted, found, strict=True))
        )
    return bool(wanted == found)


def _some(wanted: list[Any], found: Any) -> bool:
    return isinstance(found, list) and all(any(is_there(w, f) for f in found) for w in wanted)
