"""The JSON Schema of experiment files, by which editors complete and check them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autotune.adapter import declared_options
from autotune.adapters import get_adapter
from autotune.experiment.model import Model
from autotune.experiment.schema import Experiment

SCHEMA_FILE = Path(__file__).with_name("schema.json")
"""The schema as it is shipped. ``autotune schema -o autotune/experiment/schema.json`` writes it anew."""


def json_schema() -> dict[str, Any]:
    """The schema of what :func:`load_experiment` reads, in JSON Schema draft 2020-12.

    It names the options of the default framework's adapter; it takes those of others as they come.
    """
    schema = Experiment.model_json_schema()
    schema["$defs"]["WeightRounding"]["enum"].append("gptq")  # the enum reads it, and pydantic lists values alone
    strategy = schema["$defs"]["Tuning"]["properties"]["strategy"]
    strategy["anyOf"] = [{"$ref": strategy.pop("$ref")}, {"type": "string"}]  # the name alone, which is read as {name}
    for option in declared_options(get_adapter(Model.model_fields["framework"].default)):
        item = {"enum": list(option.values), "type": "string"}
        schema["$defs"]["Recipes"]["properties"][option.name] = {
            "anyOf": [item, {"items": item, "type": "array"}, {"type": "null"}],
            "default": None,
            "description": option.description,
            "title": option.name.capitalize(),
        }
    schema["properties"]["models"] = {
        "additionalProperties": {"$ref": "#/$defs/Model"},
        "description": "Several models in place of `model`, by names of your own: each is tuned on the same data.",
        "minProperties": 1,
        "title": "Models",
        "type": "object",
    }
    schema["required"] = [name for name in schema["required"] if name != "model"]
    schema["oneOf"] = [{"required": ["model"]}, {"required": ["models"]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def json_schema_text() -> str:
    """The schema as it is written to files."""
    return json.dumps(json_schema(), indent=2) + "\n"
