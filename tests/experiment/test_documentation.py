from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from autotune.experiment import SCHEMA_FILE, load_experiment
from tests.experiment.sections import make_step

REFERENCE = (Path(__file__).parents[2] / "docs" / "experiment.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", REFERENCE, flags=re.DOTALL)


def test_the_example_of_the_reference_loads(tmp_path: Path) -> None:
    (tmp_path / "example.yaml").write_text(BLOCKS[0])
    experiment = load_experiment(tmp_path / "example.yaml")
    assert experiment.tuning.random_seed == 9527
    for step in yaml.safe_load(BLOCKS[-1])["preprocess"]:
        make_step(**step)


def test_the_reference_explains_every_key() -> None:
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    sections = [schema, *schema["$defs"].values()]
    keys = {key for section in sections for key in section.get("properties", {})}
    assert {key for key in keys if not re.search(rf"\b{key}\b", REFERENCE)} == set()


def test_the_reference_states_the_defaults_that_hold(tmp_path: Path) -> None:
    minimal = (
        "model: {path: m.onnx}\ncalibration: {dataset: {function: 'a:b'}}\nevaluation: {accuracy: {function: 'a:c'}}\n"
    )
    (tmp_path / "minimal.yaml").write_text(minimal)
    experiment = load_experiment(tmp_path / "minimal.yaml")
    evaluation = experiment.evaluation
    sections = (
        experiment.tuning,
        evaluation.performance,
        evaluation,
        evaluation.accuracy,
        experiment.calibration,
        experiment.model,
    )
    for row in re.findall(r"^\| `([a-z_.]+)` \| `([\w.]+)` \| .", REFERENCE, flags=re.MULTILINE):
        (key, default), found = row, None
        for section in sections:
            value: Any = section
            for part in key.split("."):
                value = getattr(value, part, None)
            found = value if value is not None else found
        if key == "accuracy_criterion.relative":
            found = experiment.tuning.accuracy_criterion.criterion.relative
        if key != "batch_size":  # a performance and a data set both have one; both are 1
            assert str(found).lower() == default, key
