from __future__ import annotations

import json
from typing import Any

from autotune.experiment import SCHEMA_FILE
from autotune.experiment.json_schema import json_schema_text


def test_the_shipped_schema_is_that_of_the_model() -> None:
    # `autotune schema -o autotune/experiment/schema.json` writes it anew.
    assert SCHEMA_FILE.read_text(encoding="utf-8") == json_schema_text()


def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    sections = {"Experiment": schema, **schema["$defs"]}
    return {
        f"{name}.{key}": value
        for name, section in sections.items()
        for key, value in section.get("properties", {}).items()
    }


def test_every_key_is_explained_in_the_schema() -> None:
    schema = _schema()

    def explained(value: dict[str, Any]) -> bool:
        refs = [variant["$ref"] for variant in [value, *value.get("anyOf", [])] if "$ref" in variant]
        return "description" in value or any("description" in schema["$defs"][ref.split("/")[-1]] for ref in refs)

    # The fields of a recipe are explained where they are defined, in `autotune.config`.
    keys = {key: value for key, value in _properties(schema).items() if not key.startswith("Recipes.")}
    assert [key for key, value in keys.items() if not explained(value)] == []


def test_a_single_value_may_stand_for_a_list() -> None:
    properties = _properties(_schema())
    kinds = [variant.get("type") for variant in properties["WeightScheme.granularity"]["anyOf"]]
    assert "array" in kinds
    assert any(
        "enum" in each
        for variant in properties["WeightScheme.granularity"]["anyOf"]
        for each in variant.get("anyOf", ())
    )
    assert any("$ref" in variant for variant in properties["WeightScheme.dtype"]["anyOf"])
