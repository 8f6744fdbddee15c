"""What every resource model is made of: the pydantic base, CEL rules with their Python twins, list kinds.

The models are read twice: by `crdgen`, which turns them into CustomResourceDefinitions, and by the controller, which
parses what the API server hands out. Fields that a newer release added are ignored on reading, so that an operator that
was rolled back still works beside newer definitions; misspelt fields are the API server's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

GROUP = "matriarch.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One validation that a schema cannot say: in CEL for the API server, in Python for the controller.

    The controller repeats it because stored objects outlive a rule: the API server lets an old value stand as long as
    nobody changes it. `message` says what is wrong, why, and what to do; `message_cel` builds the same text where it
    has to name a value. A rule that looks at `oldSelf` has no twin: only the API server knows the old object.
    """

    cel: str
    message: str
    message_cel: str | None = None
    broken: Callable[[Any], str | bool | None] | None = None
    """Python twin: a true value when broken; a string is the message."""
    field: str | None = None
    """Path below the model that the error should point at, such as `.sync.number`."""

    def as_schema(self) -> dict[str, str]:
        """The entry of `x-kubernetes-validations`."""
        entry = {"rule": self.cel, "message": self.message}
        if self.message_cel:
            entry["messageExpression"] = self.message_cel
        if self.field:
            entry["fieldPath"] = self.field
        return entry


class Model(BaseModel):
    """A part of a resource: camelCase outside, snake_case inside, never changed after parsing."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        made = handler(schema)
        if cls.rules:
            handler.resolve_ref_schema(made)["x-kubernetes-validations"] = [rule.as_schema() for rule in cls.rules]
        return made


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`; `priority` 1 shows it only with `-o wide`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a resource is called and shown."""

    kind: str
    plural: str
    short: str
    columns: tuple[Column, ...]
    scale: bool = False
    longest_name: int = 63
    """In characters. Names of other objects are built from it."""


class Metadata(Model):
    """The parts of the object's metadata that the controller reads."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Resource(Model):
    """A whole object. Subclasses add `spec` and `status` and say their `about`."""

    about: ClassVar[Kind]
    api_version: str = API_VERSION
    kind: str = ""
    metadata: Metadata


def refusals(part: Model, path: str = "") -> list[str]:
    """Every rule with a twin that `part` or anything below it breaks, as `field: message`, outermost first."""
    found = []
    for rule in part.rules:
        verdict = rule.broken(part) if rule.broken else None
        if verdict:
            where = f"{path}{rule.field or ''}".lstrip(".")
            found.append(f"{where}: {verdict if isinstance(verdict, str) else rule.message}")
    for name, child in _children(part):
        found.extend(refusals(child, f"{path}.{name}" if path else name))
    return found


def _children(part: Model) -> Iterator[tuple[str, Model]]:
    for name, info in type(part).model_fields.items():
        value = getattr(part, name)
        alias = info.alias or name
        if isinstance(value, Model):
            yield alias, value
        elif isinstance(value, list):
            yield from ((f"{alias}[{i}]", item) for i, item in enumerate(value) if isinstance(item, Model))


def list_map(*keys: str) -> dict[str, Any]:
    """For `json_schema_extra`: a list whose items are told apart by `keys`, merged one by one by server-side apply."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


LIST_SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}
LIST_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""RFC 3339, UTC."""

Int64 = Annotated[int, WithJsonSchema({"type": "integer", "format": "int64"})]

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
"""Name of an object in the same namespace."""

ClusterName = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]

InstanceName = Annotated[str, Field(min_length=3, max_length=42, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?-[1-9]$")]

SecretKey = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]

QUANTITY = r"^(\d+(\.\d+)?|\.\d+)([eE][-+]?\d{1,2}|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
Quantity = Annotated[str, Field(min_length=1, max_length=32, pattern=QUANTITY)]
"""A Kubernetes quantity, kept as it was written."""


def int_or_string(max_length: int, pattern: str | None = None) -> Any:
    """Annotations of a field that takes `2` as well as `"2"`; Python sees a string."""
    schema: dict[str, Any] = {"x-kubernetes-int-or-string": True, "maxLength": max_length}
    if pattern:
        schema["pattern"] = pattern
    return (BeforeValidator(_text), WithJsonSchema(schema))


def _text(value: object) -> object:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) if isinstance(value, int | float) else value
