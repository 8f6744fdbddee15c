"""Frozen dataclasses to and from JSON values, strictly.

Enough for the contracts and manifests of the engine: an unknown or missing field, or a value of another type, is
refused with its path. Standard library only, because the controller imports the contract too.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

LEFT_OUT = {"left out": True}
"""Metadata of a field that came later: at its default it is not written, so that older programs read the rest."""


def encode(value: Any) -> Any:
    """A JSON value: dataclasses become objects in the order of their fields, tuples become arrays."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value) if _written(f, value)}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value.value if isinstance(value, enum.Enum) else value


def _written(field: dataclasses.Field[Any], value: Any) -> bool:
    return not field.metadata.get("left out") or getattr(value, field.name) != field.default


def decode(kind: type[T], value: Any, path: str = "$") -> T:
    """The reverse. Raises ValueError with the path of the first field that is wrong."""
    return typing.cast(T, _decode(kind, value, path))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast(type, kind), value, path)
    if origin is typing.Literal:
        if value not in args:
            raise ValueError(f"{path}: must be one of {', '.join(map(str, args))}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (inner,) = (a for a in args if a is not type(None))
        return _decode(inner, value, path)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{path}: must be a list")
        return tuple(_decode(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{path}: must be an object")
        return {key: _decode(args[1], item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if kind is Any:
        return value
    # bool is an int to Python, but never to a reader of JSON.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{path}: must be {kind.__name__}, is {type(value).__name__}")
    return value


def _decode_dataclass(kind: type, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must be an object")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if unknown := sorted(value.keys() - fields.keys()):
        raise ValueError(f"{path}.{unknown[0]}: unknown field")
    hints = _hints(kind)
    given = {name: _decode(hints[name], item, f"{path}.{name}") for name, item in value.items()}
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in given:
            raise ValueError(f"{path}.{name}: is missing")
        if given.get(name, 0) is None and not _optional(hints[name]):
            raise ValueError(f"{path}.{name}: must not be null")
    return kind(**given)


def _optional(kind: Any) -> bool:
    return type(None) in typing.get_args(kind) or kind is Any
