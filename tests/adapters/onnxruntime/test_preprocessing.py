"""Declared preprocessing, on real models whose accuracy is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.experiment.sections import MOBILENETV2_STEPS, RESNET20_STEPS, make_dataset

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    if not DATA.is_dir():
        pytest.skip("../shared/data is not here")
    return DATA


@pytest.mark.parametrize(
    ("name", "steps", "right_of_200"), [("resnet20", RESNET20_STEPS, 166), ("mobilenetv2", MOBILENETV2_STEPS, 159)]
)
def test_declared_preprocessing_reproduces_the_models_accuracy(
    shared_data: Path, name: str, steps: list[dict[str, Any]], right_of_200: int
) -> None:
    # Over all 5,000 pictures the same steps give the accuracies of the data's own README, 86.32 % and 78.16 %.
    archive = {"path": str(shared_data / "cifar10_evaluation.npz"), "inputs": "images", "labels": "labels"}
    loader = make_dataset({"npz": archive, "batch_size": 50, "limit": 200, "preprocess": steps}).open(Path())
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(shared_data / f"{name}_cifar10.onnx", options, providers=["CPUExecutionProvider"])
    right = 0
    for inputs, labels in loader:
        logits = session.run(None, {"data": np.ascontiguousarray(inputs)})[0]
        right += int((logits.argmax(axis=1) == labels).sum())
    assert right == right_of_200
