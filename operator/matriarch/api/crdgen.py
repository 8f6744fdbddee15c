"""From a pydantic model to a CustomResourceDefinition that an API server accepts.

What pydantic emits is JSON Schema with references; an API server wants a structural schema: everything in its place,
one type everywhere, no unions. Whatever has no honest translation is refused with the path of the field, so that a
model cannot promise what the API server does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matriarch.api.model import GROUP, VERSION, Kind, Resource
from matriarch.errors import Refused

Schema = dict[str, Any]

_KEPT = (
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
)
_DROPPED = ("title", "description", "default", "examples", "properties", "items", "additionalProperties")
_SPECIAL = "x-kubernetes-"
_TYPES = ("object", "array", "string", "integer", "number", "boolean")
_FORMATS = ("date-time", "int32", "int64", "double")


def definition(model: type[Resource]) -> Schema:
    """The whole CustomResourceDefinition of `model`. Raises Refused with the path of a field it cannot express."""
    about = model.about
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(about, i) for i in range(len(about.columns))],
        "schema": {"openAPIV3Schema": object_schema(model)},
        "subresources": {"status": {}},
    }
    if about.scale:
        version["subresources"]["scale"] = {
            "specReplicasPath": ".spec.instances",
            "statusReplicasPath": ".status.instances",
            "labelSelectorPath": ".status.selector",
        }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{about.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": about.kind,
                "listKind": f"{about.kind}List",
                "plural": about.plural,
                "singular": about.kind.lower(),
                "shortNames": [about.short],
                "categories": ["database"],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def object_schema(model: type[Resource]) -> Schema:
    """The schema of the whole object. Metadata is left to the API server, which allows no rules of ours there."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    shared = raw.pop("$defs", {})
    parts = {name: structural(raw["properties"][name], shared, name) for name in ("spec", "status")}
    # A fresh object must not look as if the operator had seen it: kstatus calls an absent observedGeneration healthy.
    parts["status"]["default"] = {"observedGeneration": -1}
    schema: Schema = {
        "type": "object",
        "description": _text(raw),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            # Bounded, because rules look at the name; both names are needed, or the API server puts its own here.
            "metadata": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": model.about.longest_name},
                    "generateName": {"type": "string"},
                },
            },
            **parts,
        },
    }
    if rules := raw.get(f"{_SPECIAL}validations"):
        schema[f"{_SPECIAL}validations"] = rules
    return schema


def structural(raw: Mapping[str, Any], shared: Mapping[str, Any], path: str) -> Schema:
    """The structural form of `raw`. References are written out, `X | None` becomes an optional X."""
    schema = _resolved(dict(raw), shared, path)
    made: Schema = {}
    if described := _text(schema):
        made["description"] = described
    for key, value in schema.items():
        if key in _KEPT or key.startswith(_SPECIAL):
            made[key] = value
        elif key == "const":
            made["enum"] = [value]
        elif key not in _DROPPED:
            raise Refused(f"{path}: {key!r} has no place in a structural schema: choose another type for this field")
    if schema.get("default") is not None and not path.startswith("status"):
        raise Refused(f"{path}: no defaults in a spec: compute it in api/defaults.py")
    _check_type(made, path)
    if made.get("type") == "object":
        _fill_object(made, schema, shared, path)
    if made.get("type") == "array":
        if "items" not in schema:
            raise Refused(f"{path}: a list without one type for its items has no place in a structural schema")
        made["items"] = structural(schema["items"], shared, f"{path}[]")
        if f"{_SPECIAL}list-type" not in made:
            raise Refused(f"{path}: say how the list merges: list_map(…), LIST_SET or LIST_ATOMIC")
    return made


def _resolved(schema: Schema, shared: Mapping[str, Any], path: str) -> Schema:
    """Follows `$ref` and takes the one real member of an optional; what stands beside them wins."""
    while True:
        if ref := schema.pop("$ref", None):
            schema = {**shared[ref.rsplit("/", 1)[-1]], **schema}
        elif options := schema.pop("anyOf", None):
            real = [option for option in options if option.get("type") != "null"]
            if len(real) != 1 or len(real) == len(options):
                raise Refused(f"{path}: a union has no place in a structural schema: use a field per variant")
            schema = {**real[0], **schema}
        else:
            return schema


def _check_type(made: Schema, path: str) -> None:
    if made.get(f"{_SPECIAL}int-or-string"):
        if "type" in made:
            raise Refused(f"{path}: int-or-string stands without a type")
        return
    if made.get("type") not in _TYPES:
        raise Refused(f"{path}: {made.get('type', 'no type')} has no place in a structural schema")
    if "format" in made and made["format"] not in _FORMATS:
        raise Refused(f"{path}: format {made['format']} means something else to the API server: use a pattern")


def _fill_object(made: Schema, schema: Schema, shared: Mapping[str, Any], path: str) -> None:
    if "properties" in schema:
        made["properties"] = {
            name: structural(part, shared, f"{path}.{name}") for name, part in schema["properties"].items()
        }
        if path == "status":
            made["properties"]["observedGeneration"]["default"] = -1
    elif isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = structural(schema["additionalProperties"], shared, f"{path}.*")
        if "maxProperties" not in made:
            raise Refused(f"{path}: a map needs a bound (max_length)")
    else:
        raise Refused(f"{path}: an object of unknown shape has no place in a structural schema")


def _text(schema: Mapping[str, Any]) -> str:
    return " ".join(schema.get("description", "").split())


def _column(about: Kind, index: int) -> Schema:
    column = about.columns[index]
    made: Schema = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.priority:
        made["priority"] = column.priority
    return made
