"""The pass over the calibration data: how often a model is run for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from autotune.adapters.paddle import calibration
from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.session import PaddleRunner
from tests.adapters.paddle import networks
from tests.adapters.paddle.calibrated import calibrated


def undeclared(model: PaddleModel) -> PaddleModel:
    """The same model, whose program tells the rank of each inner tensor and nothing else."""
    program = model.program
    fixed = {*programs.inputs(program), *programs.constants(program)}
    for var in program.blocks[0].vars:
        if var.name not in fixed and programs.tensor_type(var) is not None:
            dims = var.type.dense_tensor.tensor.dims
            dims[:] = [-1] * len(dims)
    return dataclasses.replace(model, content=program.SerializeToString())


@pytest.mark.parametrize("name", ["Residual", "Mobile"])
def test_tensors_of_undeclared_shape_are_not_taken_for_longer_than_they_are(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, statistics = calibrated(name)
    opened: list[PaddleModel] = []

    def counted(given: PaddleModel, execution: Any) -> PaddleRunner:
        opened.append(given)
        return PaddleRunner(given, execution)

    monkeypatch.setattr(calibration, "PaddleRunner", counted)
    batches, inputs = networks.batches(), {spec.name for spec in model.inputs}
    sizes = {tensor: 4 * each.count // len(batches) for tensor, each in statistics.tensors.items()}
    assert {len(feeds["x"]) for feeds in batches} == {len(batches[0]["x"])}
    inner = [tensor for tensor in sizes if tensor not in inputs]
    assert calibration._sizes(undeclared(model), inner, batches[0]) == {tensor: sizes[tensor] for tensor in inner}
    opened.clear()
    found = calibration.calibrate(undeclared(model), batches, seed=0, exposed_bytes=sum(sizes.values()))
    assert len(opened) == 2  # one for a sample, which tells the shapes, and one for all tensors of every batch
    assert set(found.tensors) == set(statistics.tensors)
    for tensor, each in found.tensors.items():
        wanted = statistics.tensors[tensor]
        np.testing.assert_allclose((each.minimum, each.maximum), (wanted.minimum, wanted.maximum), rtol=1e-5, atol=1e-6)
        assert each.count == wanted.count
