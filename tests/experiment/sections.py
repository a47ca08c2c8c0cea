"""Sections of an experiment file, as the YAML parser would hand them on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autotune.experiment.datasets import Dataset
from autotune.experiment.functions import FunctionLoader
from autotune.experiment.preprocessing import Step

RESNET20_STEPS = [
    {"rescale": {"divisor": 255}},
    {"normalize": {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]}},
    {"transpose": {"order": [2, 0, 1]}},
]
MOBILENETV2_STEPS = [
    {"resize": {"size": 128, "interpolation": "bilinear"}},
    {"rescale": {"divisor": 255}},
    {"normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}},
    {"transpose": {"order": [2, 0, 1]}},
]


def make_step(**section: Any) -> Step:
    """One step of a preprocessing."""
    return Step.model_validate_json(json.dumps(section))


def make_dataset(section: dict[str, Any], directory: Path = Path()) -> Dataset:
    """The data set that the YAML section would be parsed to."""
    return Dataset.model_validate_json(json.dumps(section), context={"directory": directory})


def batches(section: dict[str, Any], directory: Path = Path()) -> list[Any]:
    """All batches of what the YAML section declares."""
    loader = make_dataset(section, directory).open(directory)
    first = list(loader)
    again = list(loader)
    assert len(first) == len(again) > 0
    if not isinstance(loader, FunctionLoader):
        assert len(first) == len(loader)
    return first
