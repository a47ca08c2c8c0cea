"""Files of Neural Compressor 1.x are read where keys mean the same, and each other key gets one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autotune.config import Precision, QuantizedType
from autotune.errors import ExperimentError
from autotune.evaluation import CacheState
from autotune.experiment import Experiment, load_experiment
from autotune.experiment.neural_compressor_names import NOTES, PROBLEMS
from autotune.strategy import Objective

DOCUMENT = (Path(__file__).parents[2] / "docs" / "neural_compressor.md").read_text(encoding="utf-8")

THEIRS = """
version: 1.0
model:
  name: mobilenet
  path: mobilenet.onnx
  framework: onnxrt_qlinearops
device: cpu
quantization:
  approach: post_training_static_quant
  recipes: {first_conv_or_matmul_quantization: True}
  calibration:
    sampling_size: 50, 100
    dataloader:
      batch_size: 4
      dataset: {ImagenetRaw: {data_path: train, image_list: train.txt}}
      transform:
        Rescale: {}
        Normalize: {mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}
        Transpose: {perm: [2, 0, 1]}
  model_wise:
    weight: {granularity: per_channel}
    activation: {algorithm: "minmax, kl", dtype: "uint8, fp32"}
  op_wise:
    Conv_0: {activation: {dtype: [fp32]}, weight: {dtype: [fp32]}}
    "Gather_*": {activation: {dtype: [uint8], scheme: [asym]}}
evaluation:
  accuracy:
    metric: {topk: 5}
    configs: {cores_per_instance: 4}
    dataloader: {dataset: {ImageFolder: {root: val}}}
  performance:
    warmup: 7
    iteration: 100
    configs: {cores_per_instance: 4, num_of_instance: 7}
tuning:
  strategy: {name: sigopt, sigopt_api_token: secret}
  objective: performance
  accuracy_criterion: {relative: 0.02}
  exit_policy: {timeout: 0, max_trials: 30, performance_only: False}
  random_seed: 9527
  tensorboard: True
  workspace: {path: saved, resume: saved/history.snapshot}
"""


def _load(text: str, folder: Path) -> Experiment:
    (folder / "theirs.yaml").write_text(text)
    return load_experiment(folder / "theirs.yaml")


def _problems(text: str, folder: Path) -> list[str]:
    with pytest.raises(ExperimentError) as caught:
        _load(text, folder)
    return str(caught.value).splitlines()


def test_keys_that_mean_the_same_are_read(tmp_path: Path) -> None:
    experiment = _load(THEIRS, tmp_path)
    assert experiment.model.framework == "onnxruntime"
    assert experiment.calibration.sampling_size == 100
    data = experiment.calibration.dataset
    assert data.image_folder is not None
    assert (data.image_folder.path, data.batch_size, len(data.preprocess)) == (tmp_path / "train", 4, 3)
    accuracy = experiment.evaluation.accuracy
    assert (accuracy.metric, accuracy.options) == ("topk", {"k": 5})
    assert experiment.evaluation.performance.threads == 4
    assert experiment.evaluation.performance.warmup == 7
    assert experiment.evaluation.performance.cache is CacheState.WARM
    tuning = experiment.tuning
    assert (tuning.strategy.name, tuning.objective) == ("bayesian", Objective.LATENCY)
    assert (tuning.exit_policy.timeout, tuning.exit_policy.max_trials) == (None, 30)
    assert tuning.workspace == tmp_path / "saved"


def test_choices_of_ops_are_read_in_their_order(tmp_path: Path) -> None:
    ops = _load(THEIRS, tmp_path).quantization.restriction().op_name
    assert [*ops] == ["*", "Conv_0", "Gather_*"]
    assert ops["*"].precision == (Precision.INT8, Precision.FP32)
    assert ops["*"].algorithm == ("minmax", "kl")
    assert ops["*"].activation.dtype == (QuantizedType.U8,)
    assert ops["Conv_0"].precision == (Precision.FP32,)
    assert ops["Gather_*"].activation.symmetric is False


def test_each_other_key_has_one_line_with_its_place(tmp_path: Path) -> None:
    notes = _load(THEIRS, tmp_path).notes
    keys = [line.split(": ")[1] for line in notes]
    assert len(keys) == len(set(keys))
    assert {"version", "device", "model.name", "tuning.tensorboard", "tuning.exit_policy.timeout"} <= set(keys)
    (timeout,) = (line for line in notes if "exit_policy.timeout" in line)
    line = next(n for n, text in enumerate(THEIRS.splitlines(), start=1) if "timeout: 0" in text)
    assert timeout.startswith(f"{tmp_path / 'theirs.yaml'}:{line}: ")
    assert "stop at the first that meets" in timeout
    assert all(re.match(r".*theirs\.yaml:\d+: [\w.]+: ", line) for line in notes)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "ImagenetRaw: {data_path: train, image_list: train.txt}",
            "TFRecord: {root: x}",
            "an `npz`, an `image_folder`",
        ),
        ("Rescale: {}", "ResizeCropImagenet: {height: 224}", "write `preprocess`"),
        ("metric: {topk: 5}", "metric: {COCOmAP: {}}", "is `metric: map` here"),
        ("metric: {topk: 5}", "metric: {GLUE: {task: mrpc}}", "is `metric: NAME` here"),
        ('"Gather_*": ', '"[5][1]\\\\d+": ', "is a regular expression"),
        ("performance_only: False", "performance_only: True", "`strategy: basic`"),
        ("sampling_size: 50, 100", "sampling_size: all", "must be a whole number"),
        ("  tensorboard: True", "  multi_objectives: {objective: [performance]}", "strategy: pareto"),
        ("device: cpu", "pruning: {approach: {}}", "remove it"),
        ("metric: {topk: 5}", "metric: {MSE: {compare_label: False}}", "is `metric: mse` here"),
        ("    sampling_size: 50, 100", "    iterations: 10", "calibration.iterations: has no counterpart"),
        (
            "      batch_size: 4",
            "      batch_size: 4\n      pin_memory: True",
            "dataloader.pin_memory: has no counterpart",
        ),
        ("ImageFolder: {root: val}", "ImageFolder: {root: val, train: False}", "ImageFolder.train: has no counterpart"),
        ('dtype: "uint8, fp32"', "bits: 8", "model_wise.activation.bits: has no counterpart"),
        ("  tensorboard: True", "  target: 0.01", "is `tuning.accuracy_criterion.relative` here"),
        ("  tensorboard: True", "  timeout: 60", "is `tuning.exit_policy.timeout` here"),
    ],
)
def test_what_would_be_another_run_is_an_error_with_its_name_here(
    old: str, new: str, line: str, tmp_path: Path
) -> None:
    assert old in THEIRS
    assert any(line in each for each in _problems(THEIRS.replace(old, new), tmp_path))


def test_a_key_that_nobody_knows_stays_an_error(tmp_path: Path) -> None:
    assert any("unknown key 'threshold'" in each for each in _problems(THEIRS + "  threshold: 3\n", tmp_path))


NATIVE = """
model: {path: m.onnx}
calibration: {dataset: {function: "a:b"}}
evaluation: {accuracy: {function: "a:c"}}
tuning: {strategy: bayesian}
"""


def test_a_strategy_may_be_its_name_alone(tmp_path: Path) -> None:
    experiment = _load(NATIVE, tmp_path)
    assert (experiment.tuning.strategy.name, experiment.tuning.strategy.options) == ("bayesian", {})
    assert experiment.notes == ()


def test_a_file_of_ones_own_is_not_read_like_theirs(tmp_path: Path) -> None:
    (line,) = _problems(NATIVE.replace("bayesian", "bayesian, exit_policy: {timeout: -1}"), tmp_path)
    assert "must be greater than 0" in line


@pytest.mark.parametrize("key", [*NOTES, *PROBLEMS])
def test_the_document_lists_each_key(key: str) -> None:
    assert f"| `{key}` | " in DOCUMENT


def test_the_algorithm_of_weights_is_a_note(tmp_path: Path) -> None:
    text = THEIRS.replace("weight: {granularity: per_channel}", "weight: {granularity: per_channel, algorithm: minmax}")
    experiment = _load(text, tmp_path)
    assert len(experiment.notes) == len(_load(THEIRS, tmp_path).notes) + 1
    assert any("quantization.model_wise.weight.algorithm: ranges of weights" in line for line in experiment.notes)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "model: {framework: onnxrt_integerops}",
            ["calibration: what the data", "evaluation.accuracy: what `eval_func`"],
        ),
        (
            "model: {framework: onnxrt_qdq}\nevaluation: {accuracy: {metric: {topk: 1}}}",
            ["calibration: what the data", "evaluation.accuracy: what the data"],
        ),
        (
            "framework: [{name: mxnet}]\ntuning: {metric: [{topk: 1}], timeout: 0}",
            [
                "framework: is `model.framework`",
                "tuning.metric: is `evaluation",
                "tuning.timeout: is `tuning.exit_policy",
            ],
        ),
    ],
)
def test_what_was_given_in_python_has_a_key_here(tmp_path: Path, text: str, lines: list[str]) -> None:
    problems = "\n".join(_problems(text, tmp_path))
    assert all(line in problems for line in lines), problems
