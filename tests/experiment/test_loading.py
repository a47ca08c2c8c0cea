from __future__ import annotations

import math
import textwrap
from pathlib import Path

import pytest

from autotune.config import Granularity, Precision, WeightRounding
from autotune.criterion import Criterion
from autotune.errors import ExperimentError
from autotune.experiment import Experiment, load_experiment
from autotune.experiment.run import make_tuner
from autotune.observer import Observer
from autotune.strategy import Objective
from autotune.tuning.tuner import Tuner

MINIMAL = """\
model: {path: model.onnx}
calibration:
  dataset:
    npz: {path: /data/train.npz, inputs: x}
evaluation:
  accuracy: {function: "mine:evaluate"}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "small.yaml"


def load(file: Path, text: str, *overrides: str) -> Experiment:
    file.write_text(textwrap.dedent(text))
    return load_experiment(file, overrides)


def problems(file: Path, text: str, *overrides: str) -> list[str]:
    """The errors, without the file's name."""
    with pytest.raises(ExperimentError) as caught:
        load(file, text, *overrides)
    return [line.removeprefix(f"{file}:") for line in str(caught.value).splitlines()]


def test_a_minimal_file_takes_the_tuners_own_defaults(file: Path) -> None:
    experiment = load(file, MINIMAL)
    tuner = Tuner()
    tuning, performance = experiment.tuning, experiment.evaluation.performance
    assert tuning.accuracy_criterion.criterion == tuner.criterion == Criterion(relative=0.01)
    assert tuning.strategy.name == tuner.strategy
    assert tuning.objective == tuner.objective
    assert tuning.exit_policy.max_trials == tuner.max_trials
    assert tuning.exit_policy.timeout == tuner.timeout_s
    assert tuning.random_seed == tuner.seed
    assert experiment.calibration.sampling_size == tuner.sampling_size
    assert (performance.threads, performance.batch_size, performance.warmup) == (1, 1, 10)
    assert (tuner.threads, tuner.batch_size, tuner.warmup) == (1, 1, 10)
    assert experiment.model.framework == tuner.framework
    assert experiment.quantization.restriction() == tuner.restriction


def test_relative_paths_start_at_the_files_own_folder(file: Path) -> None:
    experiment = load(file, MINIMAL)
    assert experiment.model.path == file.parent / "model.onnx"
    assert experiment.calibration.dataset.npz is not None
    assert experiment.calibration.dataset.npz.path == Path("/data/train.npz")
    assert experiment.workspace == file.parent / "runs" / "small"
    assert load(file, MINIMAL, "tuning.workspace=w").workspace == file.parent / "w"


def test_everything_that_may_be_written(file: Path) -> None:
    experiment = load(
        file,
        """\
        model: {path: model.onnx, framework: onnxruntime}
        calibration: {sampling_size: null, dataset: {function: "mine:batches", args: {n: 3}}}
        quantization:
          approach: static
          op_type:
            Conv: {precision: int8, weight: {granularity: per_channel}, activation: {algorithm: [kl, percentile:99.9]}}
          op_name:
            "block1/*": {precision: [int8, fp32], activation: {dtype: u8, symmetric: false}}
          recipes: {reduce_range: true, weight_rounding: gptq}
        evaluation:
          accuracy:
            metric: topk
            k: 5
            dataset: {npz: {path: e.npz, inputs: {a: x, b: y}, labels: z}, batch_size: 7, limit: 70, preprocess: []}
          performance: {threads: 2, batch_size: 4, warmup: 0}
        tuning:
          strategy: {name: bayesian, startup_trials: 3}
          accuracy_criterion: {absolute: 1e-3, higher_is_better: false, confidence: 0.95}
          objective: size
          exit_policy: {timeout: 1.5, max_trials: null}
          random_seed: 9527
          workspace: there
          storage: sqlite:///x.db
        """,
    )
    restriction = experiment.quantization.restriction()
    assert restriction.op_type["Conv"].precision == (Precision.INT8,)
    assert restriction.op_type["Conv"].weight.granularity == (Granularity.PER_CHANNEL,)
    assert restriction.op_type["Conv"].algorithm == ("kl", "percentile:99.9")
    assert restriction.op_name["block1/*"].precision == (Precision.INT8, Precision.FP32)
    assert restriction.op_name["block1/*"].activation.symmetric is False
    assert restriction.recipe == {"reduce_range": (True,), "weight_rounding": (WeightRounding.GPTQ,)}
    assert experiment.evaluation.accuracy.options == {"k": 5}
    assert experiment.tuning.strategy.options == {"startup_trials": 3}
    assert experiment.tuning.objective is Objective.SIZE
    assert experiment.tuning.accuracy_criterion.criterion == Criterion(
        absolute=0.001, higher_is_better=False, confidence=0.95
    )
    assert experiment.tuning.exit_policy.max_trials is None


def test_an_unknown_key_names_its_line_the_nearest_and_the_allowed_ones(file: Path) -> None:
    (line,) = problems(file, MINIMAL + "tuning:\n  exit_policy:\n    timeout: 5\n    max_trial: 3\n")
    assert line == (
        "10: tuning.exit_policy.max_trial: unknown key 'max_trial' (did you mean 'max_trials'?). "
        "Allowed here: timeout, max_trials, max_compilations, compilation_timeout, when_confirmed"
    )


def test_all_problems_are_told_at_once_in_the_order_of_the_file(file: Path) -> None:
    lines = problems(
        file,
        """\
        model: {path: 5}
        calibration:
          sampling_size: many
          dataset:
            npz: {path: a.npz, inputs: [a]}
            preprocess:
              - rescale: {divisor: 0}
              - normalise: {}
              - {}
        evaluation:
          accuracy: {metric: topk}
          performance: {threads: true, batch_size: "1"}
        tuning:
          accuracy_criterion: {relative: 0.01, absolute: 3}
          strategy: [basic]
          objective: speed
        """,
    )
    assert [line.partition(": ")[0] for line in lines] == [
        "1",
        "3",
        "5",
        "7",
        "8",
        "9",
        "11",
        "12",
        "12",
        "14",
        "15",
        "16",
    ]
    text = "\n".join(lines)
    for message in (
        "model.path: must be text, but got 5",
        'sampling_size: must be a whole number, but got "many"',
        'inputs: must be text, but got ["a"], or must be keys and values, but got ["a"]',
        "preprocess[0].rescale.divisor: must be greater than 0, but got 0",
        "unknown key 'normalise' (did you mean 'normalize'?). Allowed here: resize, ",
        "preprocess[2]: must have one of the keys resize, ",
        "evaluation.accuracy: `metric` needs a `dataset` beside it",
        "threads: must be a whole number, but got true",
        "accuracy_criterion: Give `relative` or `absolute`, not both",
        'tuning.strategy: must be a section with keys of its own, but got ["basic"]',
        "tuning.objective: must be 'latency', 'size', 'memory', 'accuracy' or 'throughput', but got \"speed\"",
    ):
        assert message in text


def test_a_missing_section_is_named(file: Path) -> None:
    assert problems(file, "model: {}\n") == [
        "1: model: must have one of the keys path, function, but has none of them",
        "1: key 'calibration' is missing",
        "1: key 'evaluation' is missing",
    ]


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (
            "op_type: {Conv: {activation: {algorithm: percentil}}}",
            "must be one of minmax, percentile, kl, mse, least_error, or a",
        ),
        ("op_type: {Conv: {activation: {algorithm: percentile:9}}}", "but got 'percentile:9'"),
        ("op_type: {Conv: {weight: {granularity: per_chanel}}}", "must be 'per_tensor' or 'per_channel'"),
        ("op_type: {Conv: {weight: {algorithm: kl}}}", "unknown key 'algorithm'"),
        ("op_name: {a: fp32}", "op_name.a: must be a section"),
        ("recipes: {reduce_range: 3}", "must be true or false, but got 3"),
        ("recipes: {reduce_rang: true}", "(did you mean 'reduce_range'?)"),
        ("recipes: {formt: qdq}", "unknown key 'formt' (did you mean 'format'?). Allowed here: reduce_range, "),
        ("recipes: {format: qoperators}", 'must be one of qdq, qoperator, but got "qoperators" (did you mean'),
        ("recipes: {optimization: [all, 3]}", "gelu_approximation, but got 3"),
        ("approach: dynamical", "must be 'auto', 'static', 'dynamic' or 'quant_aware_training'"),
    ],
)
def test_restrictions_that_make_no_sense(file: Path, quantization: str, message: str) -> None:
    (line,) = problems(file, f"{MINIMAL}quantization:\n  {quantization}\n")
    assert line.startswith("8: quantization.")
    assert message in line


@pytest.mark.parametrize(
    ("accuracy", "message"),
    [
        ("{}", "must have one of the keys metric, metrics, function"),
        ("{metric: topk, function: 'a:b'}", "must have one of the keys metric, metrics, function"),
        ("{function: 'a:b', k: 1}", "`function` reads its own data; it takes no k"),
        ("{function: evaluate}", "must read like 'package.module:function', but got \"evaluate\""),
    ],
)
def test_ways_to_score_that_contradict_themselves(file: Path, accuracy: str, message: str) -> None:
    (line,) = problems(file, MINIMAL.replace('{function: "mine:evaluate"}', accuracy))
    assert line.startswith("6: evaluation.accuracy")
    assert message.replace('"', "'") in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold keys and values"),
        ("- a", "must hold keys and values"),
        ("a: [1, 2\nb: 3", "2: is not YAML"),
        ("a: 1\na: 2", "2: key 'a' is given twice; the first is in line 1"),
        ("? [1]\n: 2", "1: a key must be a name"),
        ("a: &a [*a]", "an alias must not stand inside of what it names"),
        ("a: !!python/name:os.system x", "1: could not determine a constructor"),
    ],
)
def test_files_that_are_no_experiment(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ExperimentError) as caught:
        load_experiment(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_or_no_text(file: Path) -> None:
    with pytest.raises(ExperimentError, match=r"There is no experiment file .*autotune init"):
        load_experiment(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExperimentError, match="cannot be read"):
        load_experiment(file)


def test_anchors_and_merge_keys(file: Path) -> None:
    experiment = load(
        file,
        MINIMAL + "quantization:\n  op_type:\n    Conv: &c {precision: int8, weight: {dtype: s8}}\n"
        "    Gemm: {<<: *c, precision: fp32}\n",
    )
    gemm = experiment.quantization.op_type["Gemm"]
    assert gemm.precision == (Precision.FP32,)
    assert gemm.weight == experiment.quantization.op_type["Conv"].weight


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("5E-2", 0.05), (".5", 0.5), ("0", 0.0)])
def test_numbers_as_people_write_them(file: Path, text: str, value: float) -> None:
    experiment = load(file, MINIMAL, f"tuning.accuracy_criterion.relative={text}")
    assert math.isclose(experiment.tuning.accuracy_criterion.criterion.target, value)


def test_overrides(file: Path) -> None:
    experiment = load(
        file, MINIMAL, "tuning.exit_policy={timeout: 5}", "tuning.exit_policy.max_trials=7", "model.path=b.onnx"
    )
    assert (experiment.tuning.exit_policy.timeout, experiment.tuning.exit_policy.max_trials) == (5.0, 7)
    assert experiment.model.path is not None
    assert experiment.model.path.name == "b.onnx"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tuning.exit_policy.max_trials=x", 'tuning.exit_policy.max_trials: must be a whole number, but got "x"'),
        ("tuning.exit.max_trials=1", "tuning.exit: unknown key 'exit'"),
        ("tuning", "must read like"),
        ("model.path.x=1", "model.path has no keys"),
        ("tuning.random_seed=[", "is not YAML"),
    ],
)
def test_overrides_are_checked_like_the_file(file: Path, override: str, message: str) -> None:
    (line,) = problems(file, MINIMAL, override)
    assert line.startswith(f"--set {override}")
    assert message in line


def test_where_a_key_stands(file: Path) -> None:
    experiment = load(file, MINIMAL, "tuning.random_seed=3")
    assert experiment.where("evaluation", "accuracy", "function") == f"{file}:6"
    assert experiment.where("calibration", "sampling_size") == f"{file}:2"
    assert experiment.where("tuning", "random_seed") == "--set tuning.random_seed=3"


def test_runtimes_take_the_place_of_a_framework(file: Path) -> None:
    assert load(file, MINIMAL).runtimes is None
    experiment = load(file, MINIMAL, "runtimes=[onnxruntime, openvino]")
    assert experiment.runtimes == ("onnxruntime", "openvino")
    tuner = make_tuner(experiment, Observer())
    assert (tuner.runtimes, tuner.framework) == (("onnxruntime", "openvino"), "onnxruntime")
    named = load(file, MINIMAL, "runtimes=[openvino]", "model.framework=openvino")
    assert make_tuner(named, Observer()).runtimes == ("openvino",)


@pytest.mark.parametrize(
    ("runtimes", "message"),
    [
        ("[]", "must list one adapter or more, of onnxruntime, "),
        ("[openvnio]", "must name adapters, but got 'openvnio' (did you mean 'openvino'?)"),
        ("[openvino, openvino]", "must name each adapter once, but got openvino more than once"),
        ("openvino", "must be a list"),
    ],
)
def test_runtimes_that_cannot_be_asked_for(file: Path, runtimes: str, message: str) -> None:
    (problem,) = problems(file, MINIMAL + f"runtimes: {runtimes}\n")
    assert problem.startswith("7: runtimes: ")
    assert message in problem


def test_a_framework_beside_runtimes_must_be_one_of_them(file: Path) -> None:
    (problem,) = problems(file, MINIMAL, "runtimes=[openvino]", "model.framework=onnxruntime")
    assert "model.framework: must be one of `runtimes` (openvino)" in problem


def test_runtimes_stand_nowhere_else(file: Path) -> None:
    (problem,) = problems(file, MINIMAL, "tuning.runtimes=[openvino]")
    assert "unknown key 'runtimes'" in problem
