"""The generated definitions are structural, bounded and small; what cannot be expressed is refused with its path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import pytest
import yaml
from pydantic import Field

from matriarch.api.crdgen import definition, object_schema, structural
from matriarch.api.generate import KINDS, files, for_helm, main
from matriarch.api.model import LIST_ATOMIC, LIST_SET, Column, Kind, Model, Resource, Rule, list_map
from matriarch.errors import Refused

TYPES = {"object", "array", "string", "integer", "number", "boolean"}
FORBIDDEN = {
    "$ref",
    "$defs",
    "const",
    "oneOf",
    "anyOf",
    "allOf",
    "not",
    "prefixItems",
    "uniqueItems",
    "title",
    "examples",
}


def _schemas(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from _schemas(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from _schemas(schema[key], f"{path}[]")


def _all() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for model in KINDS:
        schema = definition(model)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        found += list(_schemas(schema, model.about.kind))
    return found


def test_every_part_is_structural() -> None:
    for path, schema in _all():
        assert not FORBIDDEN & set(schema), path
        if schema.get("x-kubernetes-int-or-string"):
            assert "type" not in schema, path
        else:
            assert schema["type"] in TYPES, path
        if schema["type" if "type" in schema else "maxLength"] == "object":
            assert ("properties" in schema) != ("additionalProperties" in schema) or path.endswith("metadata"), path
        assert schema.get("additionalProperties") is not False, path


def test_every_list_says_how_it_merges_and_every_map_ends() -> None:
    for path, schema in _all():
        if schema.get("type") == "array":
            assert schema["x-kubernetes-list-type"] in {"map", "set", "atomic"}, path
            for key in schema.get("x-kubernetes-list-map-keys", []):
                assert key in schema["items"]["required"], f"{path}: a key must be required"
        if "additionalProperties" in schema:
            assert "maxProperties" in schema, path


def test_whatever_users_write_is_bounded() -> None:
    """The API server weighs rules by these bounds, and an object of endless strings would fill etcd."""
    for path, schema in _all():
        if ".spec" not in path:
            continue
        if schema.get("type") == "array":
            assert "maxItems" in schema, path
        if schema.get("x-kubernetes-int-or-string") or (schema.get("type") == "string" and "enum" not in schema):
            assert "maxLength" in schema, path
        if schema.get("type") == "integer" and schema.get("format") != "int64":
            assert "maximum" in schema, path


def test_no_default_but_the_generation_that_was_not_seen_yet() -> None:
    for path, schema in _all():
        if "default" in schema:
            assert path.split(".", 1)[1] in {"status", "status.observedGeneration"}, path
    for model in KINDS:
        status = object_schema(model)["properties"]["status"]
        assert status["default"] == {"observedGeneration": -1}
        assert status["properties"]["observedGeneration"]["default"] == -1


def test_every_field_of_a_spec_explains_itself() -> None:
    bare = [
        path for path, schema in _all() if ".spec." in path and not path.endswith("[]") and "description" not in schema
    ]
    assert bare == []


def test_the_definitions_say_what_kubectl_needs() -> None:
    for model in KINDS:
        crd = definition(model)
        about, version = model.about, crd["spec"]["versions"][0]
        assert crd["metadata"]["name"] == f"{about.plural}.matriarch.dev"
        assert crd["spec"]["names"]["categories"] == ["database"]
        assert version["subresources"]["status"] == {}
        shown = [c for c in version["additionalPrinterColumns"] if not c.get("priority")]
        assert len(shown) <= 6
        for column in version["additionalPrinterColumns"]:
            _need_path(version["schema"]["openAPIV3Schema"], column["jsonPath"])
    scale = definition(KINDS[0])["spec"]["versions"][0]["subresources"]["scale"]
    assert scale["specReplicasPath"] == ".spec.instances"


def _need_path(schema: dict[str, Any], path: str) -> None:
    if path.startswith(".metadata"):
        return
    for name in path.split("[", maxsplit=1)[0].strip(".").split("."):
        assert name in schema["properties"], path
        schema = schema["properties"][name]


def test_messages_are_sentences_without_a_full_stop_at_the_end() -> None:
    for path, schema in _all():
        for rule in schema.get("x-kubernetes-validations", []):
            assert "\n" not in rule["message"], path
            assert not rule["message"].endswith("."), path


COPIES = {"operator/matriarch/cli/decryptor.txt"}
"""Handed on byte by byte: a first line of ours would make it another file than the one in the docs."""


def test_files_are_small_say_their_source_and_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    made = files()
    assert {f"crds/matriarch.dev_{m.about.plural}.yaml" for m in KINDS} <= set(made)
    for name, text in made.items():
        assert len(text.encode()) < 120_000, name  # `kubectl apply` keeps a copy, of 262,144 bytes at most
        if name not in COPIES:
            assert "Generated from " in text.splitlines()[0], name
        if name.startswith("crds/matriarch.dev_"):
            assert yaml.safe_load(text)["kind"] == "CustomResourceDefinition"
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_check_finds_a_changed_file_and_writing_mends_it(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--check", "--root", str(tmp_path)]) == 0
    stale = tmp_path / "crds/matriarch.dev_backups.yaml"
    stale.write_text(stale.read_text() + "# edited\n")
    assert main(["--check", "--root", str(tmp_path)]) == 1
    assert "crds/matriarch.dev_backups.yaml" in capsys.readouterr().out
    assert stale.read_text().endswith("# edited\n"), "--check must not write"


def test_text_in_helms_language_is_refused() -> None:
    with pytest.raises(ValueError, match="Helm would read"):
        for_helm("metadata:\n  name: x\nspec:\n  a: '{{ .Values.x }}'\n")


class _Inner(Model):
    """An inner part."""

    word: Annotated[str, Field(max_length=3)]


def _schema_of(annotation: Any) -> dict[str, Any]:
    namespace = {"__annotations__": {"field": annotation}, "__doc__": "A part.", "__module__": __name__}
    model = type("Part", (Model,), namespace)
    raw = model.model_json_schema(by_alias=True)
    return structural({k: v for k, v in raw.items() if k != "$defs"}, raw.get("$defs", {}), "spec")


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (Annotated[str, Field(max_length=3)], {"type": "string", "maxLength": 3}),
        (Annotated[int, Field(ge=1, le=9)], {"type": "integer", "minimum": 1, "maximum": 9}),
        (Literal["a"], {"type": "string", "enum": ["a"]}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (
            _Inner,
            {
                "type": "object",
                "description": "An inner part.",
                "required": ["word"],
                "properties": {"word": {"type": "string", "maxLength": 3}},
            },
        ),
        (
            Annotated[list[str], Field(max_length=2, json_schema_extra=LIST_SET)],
            {"type": "array", "maxItems": 2, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        ),
        (
            Annotated[dict[str, int], Field(max_length=2)],
            {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "integer"}},
        ),
    ],
    ids=str,
)
def test_what_a_field_becomes(annotation: Any, schema: dict[str, Any]) -> None:
    assert _schema_of(annotation)["properties"]["field"] == schema
    optional = _schema_of(annotation | None)["properties"]["field"]
    assert {k: v for k, v in optional.items() if k != "default"} == schema


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (int | str, "spec.field: a union has no place"),
        (tuple[int, str], "spec.field: 'prefixItems' has no place"),
        (Annotated[set[str], Field(max_length=1)], "spec.field: 'uniqueItems' has no place"),
        (Annotated[list[str], Field(max_length=1)], "spec.field: say how the list merges"),
        (dict[str, int], "spec.field: a map needs a bound"),
        (dict[str, Any], "spec.field"),
        (Any, "spec.field: no type has no place"),
        (Annotated[int, Field(gt=0)], "spec.field: 'exclusiveMinimum' has no place"),
        (Annotated[list[Any], Field(max_length=1, json_schema_extra=LIST_ATOMIC)], "spec.field\\[\\]: no type"),
    ],
    ids=str,
)
def test_what_has_no_honest_translation_is_refused_with_its_path(annotation: Any, message: str) -> None:
    with pytest.raises(Refused, match=f"^{message}"):
        _schema_of(annotation)


def test_durations_and_defaults_are_refused() -> None:
    from datetime import timedelta

    with pytest.raises(Refused, match="format duration means something else"):
        _schema_of(timedelta)

    class Part(Model):
        """A part."""

        count: int = 3

    with pytest.raises(Refused, match=r"spec\.count: no defaults in a spec"):
        structural(Part.model_json_schema(by_alias=True), {}, "spec")


def test_rules_and_list_keys_arrive() -> None:
    class Thing(Model):
        """A thing."""

        name: Annotated[str, Field(max_length=3)]
        rules: ClassVar[tuple[Rule, ...]] = (Rule(cel="self.name != 'x'", message="not x", field=".name"),)

    class Spec(Model):
        """A spec."""

        things: Annotated[list[Thing], Field(max_length=2, json_schema_extra=list_map("name"))]

    class Status(Model):
        """A status."""

        observed_generation: int = -1

    class Object(Resource):
        """An object."""

        about: ClassVar[Kind] = Kind(
            kind="Object", plural="objects", short="o", columns=(Column("A", ".metadata.name"),)
        )
        rules: ClassVar[tuple[Rule, ...]] = (Rule(cel="true", message="never"),)
        spec: Spec
        status: Status

    schema = object_schema(Object)
    assert schema["x-kubernetes-validations"] == [{"rule": "true", "message": "never"}]
    things = schema["properties"]["spec"]["properties"]["things"]
    assert things["x-kubernetes-list-map-keys"] == ["name"]
    assert things["items"]["x-kubernetes-validations"] == [
        {"rule": "self.name != 'x'", "message": "not x", "fieldPath": ".name"}
    ]
