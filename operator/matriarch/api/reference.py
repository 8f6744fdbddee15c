"""docs/reference/api.md: every field of every kind, from the same schemas as the definitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from matriarch.api.crdgen import definition
from matriarch.api.model import API_VERSION, Resource

_TOP = """\
<!-- Generated from operator/matriarch/api/ by `make generate`. Change it there. -->
# Resources

All kinds are of `{version}` and live in a namespace. A field marked * is required. An absent field has no value of its
own in the API server: the operator computes it, and `status.effective` of a DatabaseCluster shows the result.
"""


def page(kinds: Iterable[type[Resource]]) -> str:
    """The whole page."""
    parts = [_TOP.format(version=API_VERSION)]
    for model in kinds:
        names = definition(model)["spec"]["names"]
        schema = definition(model)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        parts.append(f"\n## {names['kind']}\n\n{schema['description']} Short name: `{names['shortNames'][0]}`.\n")
        for section in ("spec", "status"):
            parts.append(f"\n### {names['kind']}.{section}\n\n| field | type | meaning |\n|---|---|---|\n")
            parts.extend(f"| `{path}`{mark} | {kind} | {text} |\n" for path, mark, kind, text in _rows(schema, section))
        if rules := list(_rules(schema, "")):
            parts.append(f"\n### Rules of {names['kind']}\n\nThe API server refuses an object that breaks one.\n\n")
            parts.extend(f"- {where}{text}\n" for where, text in rules)
    return "".join(parts)


def _rows(schema: dict[str, Any], section: str) -> Iterator[tuple[str, str, str, str]]:
    yield from _fields(schema["properties"][section], "")


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str, str, str]]:
    for name, part in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        mark = "*" if name in schema.get("required", []) else ""
        yield here, mark, _type(part), part.get("description", "").replace("|", "\\|")
        inner = part.get("items", part)
        yield from _fields(inner, f"{here}[]" if "items" in part else here)


def _type(part: dict[str, Any]) -> str:
    if "enum" in part:
        return " \\| ".join(f"`{value}`" for value in part["enum"])
    if part.get("x-kubernetes-int-or-string"):
        return "integer or string"
    kind = str(part["type"])
    if kind == "array":
        keys = part.get("x-kubernetes-list-map-keys")
        return f"list of {_type(part['items'])}" + (f", by {', '.join(keys)}" if keys else "")
    if "additionalProperties" in part:
        return f"map to {_type(part['additionalProperties'])}"
    if "minimum" in part or "maximum" in part:
        return f"{kind}, {part.get('minimum', '')}..{part.get('maximum', '')}"
    return "time" if part.get("format") == "date-time" else kind


def _rules(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", []):
        where = f"{path}{rule.get('fieldPath', '')}".lstrip(".")
        yield (f"`{where}`: " if where else ""), rule["message"]
    for name, part in schema.get("properties", {}).items():
        yield from _rules(part, f"{path}.{name}")
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")
