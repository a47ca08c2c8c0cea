"""The whole way: the core tunes a model on OpenVINO as it does on any other framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import autotune
from autotune.adapters import get_adapter
from autotune.criterion import Criterion
from tests.adapters.onnx.graphs import image_batches
from tests.adapters.openvino.calibrated import ADAPTER, ONE_THREAD, wide
from tests.adapters.openvino.graphs import wide_cnn
from tests.cli.conftest import Command, command

__all__ = ["command"]  # the fixture

BATCHES = [batch["x"] for batch in image_batches(4)]


def eval_fn(model: Any) -> float:
    return 10.0 + float(np.mean([np.abs(model(batch)).mean() for batch in BATCHES]))


def tune(workspace: Path, *, trials: int, isolation: str = "none") -> autotune.TuningResult:
    tuner = autotune.Tuner(
        framework="openvino",
        criterion=Criterion(relative=0.05),
        objective="size",
        strategy="random",
        max_trials=trials,
        workspace=workspace,
        isolation=isolation,
    )
    return tuner.tune(wide_cnn(), BATCHES, eval_fn)


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_the_answer_is_saved_as_ir_and_computes_the_same_bits(isolation: str, tmp_path: Path) -> None:
    result = tune(tmp_path / "run", trials=2, isolation=isolation)
    assert result.verdict == "met"
    assert result.best.config.ops
    result.save(tmp_path / "tuned.xml")
    again = ADAPTER.load(tmp_path / "tuned.xml")
    run = ADAPTER.runner(again, ONE_THREAD)
    for batch in BATCHES:
        np.testing.assert_array_equal(run({"x": batch})[0], result.model(batch))
    kept = {file.name for file in (tmp_path / "run").iterdir() if file.suffix in (".xml", ".bin")}
    assert {"best.xml", "best.bin"} <= kept


def test_a_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    first = tune(tmp_path, trials=1)
    second = tune(tmp_path, trials=3)
    assert [trial.config for trial in second.history][: len(first.history)] == [trial.config for trial in first.history]
    assert len(second.history) > len(first.history)


def test_benchmark_compares_ir_and_onnx(command: Command, tmp_path: Path) -> None:
    onnx.save(wide_cnn(), tmp_path / "wide.onnx")
    ADAPTER.save(wide().int8(), tmp_path / "tuned.xml", {})
    outcome = command("benchmark", "wide.onnx", "tuned.xml", "--framework", "openvino", "--warmup", 1)
    assert outcome.status == 0, outcome.err
    rows = [line.split() for line in outcome.out.splitlines() if line.strip().startswith(("wide.onnx", "tuned.xml"))]
    assert [row[0] for row in rows] == ["wide.onnx", "tuned.xml"]
    assert "1.00x" in rows[0]


def test_inspect_names_the_ops(command: Command, tmp_path: Path) -> None:
    onnx.save(wide_cnn(), tmp_path / "wide.onnx")
    outcome = command("inspect", "wide.onnx", "--framework", "openvino")
    assert outcome.status == 0
    assert "GroupConvolution" in outcome.out


def test_the_registry_knows_the_adapter() -> None:
    assert get_adapter("openvino").name == "openvino"
