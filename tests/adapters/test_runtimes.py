"""ONNX Runtime and OpenVINO in one run, on a small network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml

import autotune
from autotune.adapters import get_adapter
from autotune.criterion import Criterion, Verdict
from autotune.experiment import load_experiment
from autotune.results.summary import read_summary
from tests.adapters.onnx.graphs import image_batches
from tests.adapters.openvino.graphs import wide_cnn
from tests.cli.conftest import Command

pytest.importorskip("openvino")

BOTH = ("onnxruntime", "openvino")
BATCHES = [batch["x"] for batch in image_batches(4)]
SUFFIXES = {"onnxruntime": {"best.onnx"}, "openvino": {"best.xml", "best.bin"}}


def eval_fn(model: Any) -> float:
    return 10.0 + float(np.mean([np.abs(model(batch)).mean() for batch in BATCHES]))


def tune(workspace: Path | None = None, **options: Any) -> autotune.TuningResult:
    given: dict[str, Any] = {"runtimes": BOTH, "criterion": Criterion(relative=0.05), "latency_max_s": 1.0}
    return autotune.Tuner(workspace=workspace, **(given | options)).tune(wide_cnn(), BATCHES, eval_fn)


def test_the_answer_runs_where_it_was_measured_and_is_saved_for_that_runtime(tmp_path: Path) -> None:
    result = tune(tmp_path)
    assert result.verdict is Verdict.MET
    assert set(result.fp32_speeds) == set(BOTH)
    # fp32, which names no runtime in its config, may be the answer where the machine is quiet.
    tried = {trial.config.runtime for trial in result.history[1:]}
    assert tried
    assert tried <= set(BOTH)
    kept = {file.name for file in tmp_path.iterdir() if file.name.startswith("best")}
    assert kept == SUFFIXES[str(result.runtime)]
    adapter = get_adapter(str(result.runtime))
    path = result.save(tmp_path / f"tuned{adapter.suffix}")
    run = adapter.runner(adapter.load(path), autotune.adapter.Execution())
    for batch in BATCHES:
        np.testing.assert_allclose(run({"x": batch})[0], result.model(batch), rtol=1e-5, atol=1e-5)
    summary = read_summary(tmp_path)
    assert (summary.runtime, summary.baseline_runtime) == (result.runtime, result.baseline_runtime)


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_candidates_of_both_are_measured_against_one_baseline(isolation: str, tmp_path: Path) -> None:
    # Size is the same in every run, so that no runtime is given up.
    first = tune(tmp_path, objective="size", strategy="random", max_trials=2, isolation=isolation)
    assert [trial.config.runtime for trial in first.history[1:]] == list(BOTH)
    second = tune(tmp_path, objective="size", strategy="random", max_trials=4, isolation=isolation)
    assert [trial.config for trial in second.history[:3]] == [trial.config for trial in first.history]
    assert [trial.config.runtime for trial in second.history[1:]] == list(BOTH) * 2
    assert all(trial.measurement is not None and trial.measurement.loss is not None for trial in second.history)


def custom(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with an operator of ONNX Runtime's own, which OpenVINO does not know."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    node = next(each for each in changed.graph.node if each.op_type == "Relu")
    node.op_type, node.domain = "SampleOp", "com.microsoft"
    changed.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return changed


def test_a_runtime_that_cannot_read_the_model_is_left_out() -> None:
    tuner = autotune.Tuner(runtimes=BOTH, criterion=Criterion(relative=0.05), strategy="random", max_trials=1)
    result = tuner.tune(custom(wide_cnn()), BATCHES, eval_fn)
    assert result.runtime == "onnxruntime"
    assert result.fp32_speeds == {"onnxruntime": 1.0}
    assert any(note.startswith("openvino is left out: The model must consist of ops that") for note in result.notes)


EXPERIMENT: dict[str, Any] = {
    "model": {"path": "network.onnx"},
    "runtimes": list(BOTH),
    "calibration": {"dataset": {"npz": {"path": "data.npz", "inputs": "images"}, "batch_size": 8}},
    "evaluation": {
        "accuracy": {
            "metric": "topk",
            "dataset": {"npz": {"path": "data.npz", "inputs": "images", "labels": "labels"}, "batch_size": 16},
        },
        "isolation": "none",
        "performance": {"max_seconds": 1.0},
    },
    "tuning": {"accuracy_criterion": {"absolute": 0.9}, "exit_policy": {"max_trials": 4}, "workspace": "work"},
}


def test_a_run_from_an_experiment_file(command: Command, network_file: Path, tmp_path: Path) -> None:
    assert network_file.is_file()
    images = np.random.default_rng(2).normal(size=(64, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "data.npz", images=images, labels=np.zeros(64, np.int64))
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    outcome = command("run", tmp_path / "experiment.yaml", "-o", "tuned.onnx")
    assert outcome.status in (0, 3), outcome  # speed may be undecided on a busy machine
    assert "strategy auto, runtimes onnxruntime, openvino" in outcome.out
    assert "Comparing the runtimes" in outcome.out
    assert "The baseline is fp32 on o" in outcome.out
    assert "Baseline (fp32 on o" in outcome.out
    summary = read_summary(tmp_path / "work")
    names = {file.name for file in tmp_path.iterdir() if file.name.startswith("tuned")}
    assert names == ({"tuned.onnx"} if summary.runtime == "onnxruntime" else {"tuned.xml", "tuned.bin"})
    report = command("report", "work")
    assert report.status == 0


def test_an_option_of_one_runtime_alone_may_be_restricted(network_file: Path, tmp_path: Path) -> None:
    assert network_file.is_file()
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump({**EXPERIMENT, "quantization": {"recipes": {"format": "qdq"}}}))
    assert load_experiment(path).quantization.options == {"format": ("qdq",)}


def test_inspect_shows_the_model_on_each_runtime(command: Command, network_file: Path, tmp_path: Path) -> None:
    assert network_file.is_file()
    images = np.random.default_rng(2).normal(size=(64, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "data.npz", images=images, labels=np.zeros(64, np.int64))
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    outcome = command("inspect", tmp_path / "experiment.yaml")
    assert outcome.status == 0, outcome
    assert [name for name in BOTH if f" on {name} (" in outcome.out] == list(BOTH)
    outcome = command("inspect", tmp_path / "experiment.yaml", "--framework", "openvino")
    assert " on onnxruntime (" not in outcome.out
