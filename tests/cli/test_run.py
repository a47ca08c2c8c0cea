from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from autotune.criterion import Interval
from autotune.evaluation import Evaluator, LatencyComparison, RaceResult
from autotune.evaluation.latency import Comparison
from tests.cli.conftest import Command
from tests.numpy_framework import read


def test_a_run_that_meets_the_target(command: Command, experiment: Path, tmp_path: Path) -> None:
    outcome = command("run", experiment)
    assert (outcome.status, outcome.err) == (0, "")
    assert "network.npz: least size at a loss of at most 0.2 absolute, strategy basic" in outcome.out
    lines = [line.split() for line in outcome.out.splitlines()]
    assert next(line for line in lines if line[:1] == ["0"])[1:] == ["1.0000", "1.00x", "fp32", "baseline"]
    assert any(line[:1] == ["2"] for line in lines)
    assert "<- best so far" in outcome.out
    assert ["Op", "type", "INT8", "FP32", "Total"] in lines
    assert ["Dense", "4", "0", "4"] in lines
    assert "Tune results" in outcome.out
    assert "Target met" in outcome.out
    assert any(layer.weight_scheme for layer in read(tmp_path / "work" / "best.npz")[0].layers)
    assert f"Model:  {tmp_path / 'work' / 'best.npz'}" in outcome.out
    assert (tmp_path / "work" / "report.html").is_file()


CRASHING = """
import ctypes
calls = 0

def evaluate(model):
    global calls
    calls += 1
    if calls == 2:  # in the worker, which counts for itself: its second candidate
        ctypes.string_at(0)
    return 1.0
"""


def test_a_crash_in_native_code_fails_one_trial_by_default(command: Command, experiment: Path) -> None:
    module = f"crashing_{abs(hash(experiment))}"
    experiment.with_name(f"{module}.py").write_text(CRASHING)
    text = experiment.read_text()
    start, end = text.index("  accuracy:"), text.index("  performance:")
    experiment.write_text(f'{text[:start]}  accuracy: {{function: "{module}:evaluate"}}\n{text[end:]}')
    outcome = command("run", experiment, "--set", "tuning.strategy={name: random}", "--max-trials", 3)
    assert outcome.status == 0, outcome
    assert "failed: The worker process died: SIGSEGV" in outcome.out
    started = [line.split()[0] for line in outcome.out.splitlines() if line[:5].strip().isdecimal()]
    assert started[:4] == ["0", "1", "2", "3"]  # the table of ops comes after


def test_several_metrics_and_portability_from_the_file(command: Command, experiment: Path, tmp_path: Path) -> None:
    text = experiment.read_text()
    start, end = text.index("    metric: topk"), text.index("  isolation:")
    accuracy = """\
    metrics: [{metric: agreement}, {metric: cosine}]
    criteria: {cosine: {absolute: 0.5}}
    holdout: 0.25
    dataset: {npz: {path: data.npz, inputs: images}, batch_size: 16}
"""
    experiment.write_text(text[:start] + accuracy + text[end:])
    outcome = command("run", experiment, "--set", "tuning.portable=true", "--max-trials", 1)
    assert outcome.status == 0, outcome
    report = (tmp_path / "work" / "report.html").read_text()
    assert "tuned, on data held out" in report
    assert "Ops that can saturate without VNNI" not in report
    again = command("run", experiment, "--max-trials", 1)
    assert again.status == 2
    assert "holds trials of another run (space" in again.err


def test_the_same_command_continues_a_run(command: Command, experiment: Path) -> None:
    assert command("run", experiment, "--max-trials", 1).status == 0
    outcome = command("run", experiment, "--max-trials", 2)
    assert outcome.status == 0
    started = [line.split()[0] for line in outcome.out.splitlines() if line[:5].strip().isdecimal()]
    assert started[-1] == "2"
    assert "1" not in started[:-1]


MODULE = """
calls = 0

def interrupted_at_once(model):
    raise KeyboardInterrupt

def interrupted(model):
    global calls
    calls += 1
    if calls == 3:
        raise KeyboardInterrupt
    return 1.0

def broken(model):
    return helper({})

def helper(scores):
    return scores["top1"]

def worse(model):
    global calls
    calls += 1
    return 1.0 if calls == 1 else 0.5

def nothing(model):
    return None
"""


def _with_function(experiment: Path, function: str) -> None:
    text = experiment.read_text()
    start, end = text.index("  accuracy:"), text.index("  isolation:")
    module = f"scores_{abs(hash(experiment))}"
    experiment.with_name(f"{module}.py").write_text(MODULE)
    experiment.write_text(f'{text[:start]}  accuracy: {{function: "{module}:{function}"}}\n{text[end:]}')


def test_a_target_that_is_missed_still_leaves_a_model(command: Command, experiment: Path, tmp_path: Path) -> None:
    _with_function(experiment, "worse")
    outcome = command("run", experiment, "-o", "out.npz", "--max-trials", 1)
    assert outcome.status == 3
    assert "Target missed" in outcome.out
    assert "Ops that cost most" in outcome.out
    # The answer keeps the target: it is fp32. The nearest candidate has a name of its own.
    assert "the answer is the fp32 model itself" in outcome.out
    nearest = tmp_path / "work" / "nearest.npz"
    assert f"Nearest candidate, which is not the answer: {nearest}" in outcome.out
    quantized = [
        any(layer.weight_scheme for layer in read(path)[0].layers)
        for path in (tmp_path / "out.npz", tmp_path / "work" / "best.npz", nearest)
    ]
    assert quantized == [False, False, True]


def test_a_run_that_tries_nothing_is_no_success(command: Command, experiment: Path, tmp_path: Path) -> None:
    outcome = command("run", experiment, "--set", "quantization.op_name={'*': {precision: fp32}}")
    assert outcome.status == 3
    assert "Undecided" in outcome.out
    assert "Why this one: nothing was tried" in outcome.out
    assert (tmp_path / "work" / "best.npz").is_file()
    assert not (tmp_path / "work" / "nearest.npz").exists()


@pytest.mark.parametrize(
    ("race", "status", "text"),
    [
        ((1.9, 2.1, True), 0, "2.00x as fast as fp32"),
        ((0.8, 0.9, False), 0, "the answer is the fp32 model itself"),
        ((0.7, 51.0, None), 3, "Target met, speed undecided"),
    ],
)
def test_the_exit_status_tells_whether_speed_is_known(
    command: Command,
    experiment: Path,
    monkeypatch: pytest.MonkeyPatch,
    race: tuple[float, float, bool | None],
    status: int,
    text: str,
) -> None:
    low, high, faster = race
    speedup, interval = (low + high) / 2, Interval(low=low, high=high)

    def busy(method: Callable[[Comparison], LatencyComparison]) -> Callable[[Comparison], LatencyComparison]:
        def compared(self: Comparison) -> LatencyComparison:
            wide = Interval(low=0.9, high=3.0)
            return dataclasses.replace(method(self), speedup=2.0, interval=wide, decided=False)

        return compared

    def raced(_self: object, finalists: Sequence[object], **_: object) -> RaceResult:
        count = len(finalists)
        return RaceResult(
            order=tuple(range(count)), speedups=(speedup,) * count, intervals=(interval,) * count,
            latencies_ms=(1.0,) * count, baseline_ms=speedup, rounds=(9,) * count, decided=faster is not None,
            survivors=tuple(range(count)), faster=(faster,) * count, sessions=1,
        )  # fmt: skip

    for method in ("run", "again"):
        monkeypatch.setattr(Comparison, method, busy(getattr(Comparison, method)))
    monkeypatch.setattr(Evaluator, "race", raced)
    outcome = command("run", experiment, "--max-trials", 1, "--set", "tuning.objective=latency")
    assert outcome.status == status, outcome
    assert text in outcome.out
    assert "2.00x?" in outcome.out  # the search's own figure
    assert "<- best so far" not in outcome.out


def test_ctrl_c_leaves_the_best_so_far(command: Command, experiment: Path, tmp_path: Path) -> None:
    _with_function(experiment, "interrupted")
    outcome = command("run", experiment)
    assert outcome.status == 130
    assert "Traceback" not in outcome.err
    assert "Tune results" in outcome.out
    assert (tmp_path / "work" / "best.npz").is_file()


def test_ctrl_c_before_there_is_a_best(command: Command, experiment: Path, tmp_path: Path) -> None:
    _with_function(experiment, "interrupted_at_once")
    outcome = command("run", experiment)
    assert outcome.status == 130
    assert f"is kept in {tmp_path / 'work'}; the same command continues" in outcome.out
    assert "Traceback" not in outcome.err


def test_a_bug_in_the_users_function_shows_the_users_own_traceback(command: Command, experiment: Path) -> None:
    _with_function(experiment, "broken")
    outcome = command("run", experiment)
    assert outcome.status == 1
    frames = [line for line in outcome.err.splitlines() if line.startswith("  File")]
    assert [frame.rpartition(" ")[2] for frame in frames] == ["broken", "helper"]
    assert outcome.err.rstrip().endswith("KeyError: 'top1'")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.path=nowhere.npz"], "nowhere.npz"),
        (["model.path=data.npz"], "data.npz"),
        (["tuning.max_trials=1"], "unknown key 'max_trials'"),
        (["tuning.strategy.name=basik"], "experiment.yaml:13: There is no strategy 'basik'"),
        (["tuning.strategy.wings=2"], "experiment.yaml:13: Strategy 'basic' has no option 'wings'"),
        (["tuning.objective=memory"], 'needs isolation="process"'),
        (["evaluation.trial_memory=4 loads"], "must be a number of bytes, or read like 500 MB or 4 GiB"),
        (["evaluation.isolation=thread"], "must be 'none' or 'process'"),
        (["evaluation.accuracy.holdout=2"], "must be less than 1"),
        (["evaluation.accuracy.criteria={top9: {absolute: 1}}"], "there is no metric 'top9'"),
        (["evaluation.accuracy.metric=log_loss", "evaluation.accuracy.k=null"], "has no option 'k'"),
        (["evaluation.accuracy.metric=topp"], "There is no metric 'topp'"),
        (["evaluation.accuracy.j=1"], "experiment.yaml:7: Metric 'topk' has no option 'j'"),
        (["tuning.accuracy_criterion.higher_is_better=false"], "experiment.yaml:14: "),
        (["calibration.dataset.npz.path=nowhere.npz"], "There is no data file"),
        (["calibration.dataset.npz.inputs=few"], "Input 'data' needs"),
        (["calibration.dataset.npz.inputs=bytes"], "Input 'data' needs dtype float32, but batch 0"),
        (["evaluation.accuracy.dataset.npz.labels=few"], "'images' has 64 and 'few' has 5"),
        (["evaluation.accuracy.dataset.npz={path: data.npz, inputs: images}"], "needs labels: name their array"),
        (["quantization.op_name={dense_7: {precision: fp32}}"], "'dense_7' matches none (did you mean 'dense_2'?)"),
        (["quantization.op_type={Convolution: {}}"], "it has no 'Convolution'"),
        (["tuning.workspace=data.npz"], "workspace"),
        (["model.framework=onnx"], "onnxruntime"),
    ],
)
def test_bad_input_ends_with_a_message_and_status_2(
    command: Command, experiment: Path, overrides: list[str], message: str
) -> None:
    outcome = command("run", experiment, *(part for override in overrides for part in ("--set", override)))
    assert outcome.status == 2
    assert outcome.err.startswith("Error: ")
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_a_function_that_returns_no_score_is_bad_input(command: Command, experiment: Path) -> None:
    _with_function(experiment, "nothing")
    outcome = command("run", experiment)
    assert outcome.status == 2
    assert "None" in outcome.err
    assert "Traceback" not in outcome.err


def test_an_unknown_option_is_bad_input(command: Command, experiment: Path) -> None:
    outcome = command("run", experiment, "--max-trial", 3)
    assert outcome.status == 2
    assert "--max-trial" in outcome.err


def test_a_timeout_before_anything_is_measured_is_no_success_and_leaves_a_model(
    command: Command, experiment: Path, tmp_path: Path
) -> None:
    outcome = command("run", experiment, "--timeout", 0.0001)
    assert (outcome.status, outcome.err) == (3, "")
    text = " ".join(outcome.out.split())
    assert "the 0.0001 s given to the run were up before the model was loaded and the data were read" in text
    assert "s or more (`timeout_s`, or `--timeout`)" in text
    assert "Target met" not in text
    assert not any(layer.weight_scheme for layer in read(tmp_path / "work" / "best.npz")[0].layers)
    assert (tmp_path / "work" / "report.html").is_file()
    assert command("run", experiment).status == 0
