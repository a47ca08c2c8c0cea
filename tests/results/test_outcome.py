"""The outcome of a run, as the terminal and the report say it, and as a workspace keeps it."""

from __future__ import annotations

import dataclasses
import html
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from autotune.cli.tables import print_outcome
from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.criterion import Criterion, Interval, Verdict
from autotune.errors import WorkspaceError
from autotune.results.report import render
from autotune.results.summary import TuningSummary, read_summary
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.history import SETUP, SUMMARY, History
from autotune.tuning.race import Finalist, Race

INT8 = QuantizationConfig(ops={"conv": OpConfig(precision=Precision.INT8)})


def fp32() -> Trial:
    certain = Interval(low=1.0, high=1.0)
    measured = Measurement(
        accuracy=0.9, loss=0.0, verdict=Verdict.MET, latency_ms=0.544, speedup=1.0, speedup_interval=certain,
        size_bytes=4_000_000, peak_memory_bytes=90_000_000,
    )  # fmt: skip
    return Trial(number=0, config=QuantizationConfig(), state=TrialState.COMPLETED, measurement=measured)


def candidate(number: int = 1, **figures: Any) -> Trial:
    values: dict[str, Any] = {
        "accuracy": 0.9, "loss": 0.002, "loss_interval": Interval(low=0.001, high=0.004), "verdict": Verdict.MET,
        "latency_ms": 0.429, "baseline_ms": 0.613, "speedup": 0.613 / 0.429,
        "speedup_interval": Interval(low=1.4, high=1.46), "latency_decided": True, "size_bytes": 1_000_000,
        "peak_memory_bytes": 60_000_000, "samples": 60, "samples_total": 60, **figures,
    }  # fmt: skip
    return Trial(number=number, config=INT8, state=TrialState.COMPLETED, measurement=Measurement(**values))


def summary(*trials: Trial, best: Trial | None = None, **options: Any) -> TuningSummary:
    history = [fp32(), *trials]
    values: dict[str, Any] = {
        "verdict": Verdict.MET, "best": best or history[-1], "baseline": history[0], "reason": "it is so",
        "end_reason": "all was tried", "criterion": Criterion(), "history": history, "op_types": {"conv": "Conv"},
        **options,
    }  # fmt: skip
    return TuningSummary(**values)


def shown(result: TuningSummary) -> str:
    console = Console(file=io.StringIO(), width=160, color_system=None, force_terminal=False, legacy_windows=False)
    print_outcome(console, result)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, name: str) -> list[str]:
    return next(line for line in text.splitlines() if line.split()[:1] == [name]).split()


def test_sixty_samples_that_straddle_the_target_prove_nothing() -> None:
    small = summary(candidate(loss=-0.002, loss_interval=Interval(low=-0.064, high=0.060)), speed=Verdict.MET)
    assert small.success
    assert small.proven is False
    assert small.samples_to_decide == 1602  # 60 * (0.062 / 0.012) ** 2
    for text in (shown(small), render(small)):
        assert "Target met on these samples, not proven" in text
        assert "about 1,700 samples would decide" in text


def test_a_loss_on_the_target_is_decided_by_no_number_of_samples() -> None:
    close = summary(candidate(loss=0.01, loss_interval=Interval(low=-0.06, high=0.08)))
    assert (close.proven, close.samples_to_decide) == (False, None)
    assert "no evaluation set is large enough" in shown(close)


def test_what_the_samples_prove_needs_no_remark() -> None:
    sure = summary(candidate(), speed=Verdict.MET)
    assert sure.proven is True
    assert "proven" not in shown(sure)
    unknown = summary(candidate(loss_interval=None))
    assert unknown.proven is None
    assert "proven" not in shown(unknown)


def test_latency_and_speedup_of_one_table_come_from_the_same_calls() -> None:
    result = summary(candidate())
    cells = row(shown(result), "Latency")
    fp32_ms, own_ms = float(cells[1]), float(cells[3])
    assert f"{fp32_ms / own_ms:.2f}x" == row(shown(result), "Speedup")[1] == "1.43x"
    assert "0.613" in render(result)
    assert "0.544" not in render(result)
    # Earlier versions stored no latency of fp32 beside the candidate's: the speedup says what it was.
    old = summary(candidate(baseline_ms=None))
    assert row(shown(old), "Latency")[1] == "0.613"


def test_a_missed_target_shows_fp32_and_the_nearest_beside_it() -> None:
    near = candidate(2, loss=0.03, loss_interval=Interval(low=0.02, high=0.04), verdict=Verdict.MISSED)
    result = summary(near, best=fp32(), nearest=near, verdict=Verdict.MISSED)
    assert not result.success
    text = shown(result)
    assert "Target missed (loss of at most 1 % relative): the answer is the fp32 model itself." in text
    assert "The nearest candidate, trial 2, misses the target: 1.43x as fast as fp32." in text
    assert "Nearest (trial 2)" in text
    assert row(text, "Latency")[1:] == ["0.613", "ms", "0.613", "ms", "0.429", "ms"]
    assert "nearest: trial 2" in render(result)


def test_a_missed_limit_shows_both_figures_of_the_nearest() -> None:
    near = candidate(2, size_bytes=123456, verdict=Verdict.MISSED)
    result = summary(near, best=fp32(), nearest=near, verdict=Verdict.MISSED, objective=Objective.ACCURACY)
    assert "The nearest candidate, trial 2, misses the limits: 1.43x as fast as fp32, 123,456 bytes." in shown(result)


def test_an_undecided_speed_is_no_success_and_is_marked_everywhere() -> None:
    wide = candidate(speedup=46.77, speedup_interval=Interval(low=0.7, high=51.08), latency_decided=False)
    result = summary(wide, best=fp32(), nearest=wide, speed=Verdict.UNDECIDED)
    assert not result.success
    text, report = shown(result), render(result)
    assert "Target met, speed undecided" in text
    assert "46.77x (0.70 to 51.08), undecided" in text
    assert "Trial 1 keeps the target and is not known to be faster: 46.77x as fast as fp32 (undecided)" in text
    assert "Target met, speed undecided" in report
    # In the table of the answer, in that of the trials, in the drawing, and in what is said of it.
    assert report.count("46.77x") == report.count("46.77x [0.70, 51.08] (undecided)") + report.count(
        "46.77x (undecided)"
    ) + report.count("46.77x as fast as fp32 (undecided)")


@pytest.mark.parametrize(
    ("speed", "verdict", "success"),
    [
        (Verdict.MET, Verdict.MET, True),
        (Verdict.MISSED, Verdict.MET, True),
        (None, Verdict.MET, True),
        (Verdict.UNDECIDED, Verdict.MET, False),
        (None, Verdict.MISSED, False),
        (None, Verdict.UNDECIDED, False),
    ],
)
def test_what_is_a_success(speed: Verdict | None, verdict: Verdict, success: bool) -> None:
    assert summary(candidate(), speed=speed, verdict=verdict).success is success


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        (Objective.LATENCY, "trial 1, 1.43x as fast as fp32, at a loss"),
        (Objective.SIZE, "trial 1, 25% of fp32's size, at a loss"),
        (Objective.MEMORY, "trial 1, 67% of fp32's peak memory, at a loss"),
    ],
)
def test_the_answer_is_told_by_its_objective(objective: Objective, text: str) -> None:
    result = summary(candidate(), objective=objective)
    assert text in shown(result)
    assert text in html.unescape(render(result))


def test_the_use_of_the_data_held_out_is_counted() -> None:
    final = Measurement(accuracy=0.9, loss=0.001, loss_interval=Interval(low=-0.01, high=0.02))
    assert "used once, on one candidate" in shown(summary(candidate(), final=final, holdout_uses=1))
    thrice = summary(candidate(), final=final, holdout_uses=3)
    assert "used on 3 candidates" in shown(thrice)
    assert "used on 3 candidates" in render(thrice)


def test_the_race_is_in_the_report() -> None:
    first = Finalist(
        number=1, speedup=1.43, interval=Interval(low=1.4, high=1.46), searched=1.51, latency_ms=0.429, rounds=40,
        survived=True, faster=True,
    )  # fmt: skip
    second = Finalist(
        number=2, speedup=1.2, interval=Interval(low=0.9, high=1.3), searched=41.54, latency_ms=0.51, rounds=30,
        survived=False, faster=None,
    )  # fmt: skip
    race = Race(finalists=(first, second), baseline_ms=0.613, decided=True, sessions=2, cache="warm")
    report = render(summary(candidate(), races=(race,)))
    assert "Race of the finalists" in report
    for expected in ("1.51x", "41.54x", "proven slower than another", "undecided", "fp32 took 0.613 ms", "warm"):
        assert expected in report


def test_a_summary_is_read_as_it_was_written() -> None:
    near = candidate(2, verdict=Verdict.MISSED)
    race = Race(
        finalists=(
            Finalist(
                number=1, speedup=1.4, interval=Interval(low=1.3, high=1.5), searched=None, latency_ms=0.4, rounds=9,
                survived=True, faster=True,
            ),
        ),
        baseline_ms=0.6, decided=True, sessions=1, cache="warm",
    )  # fmt: skip
    result = summary(
        candidate(), near, best=fp32(), nearest=near, speed=Verdict.UNDECIDED, objective=Objective.SIZE,
        races=(race,), holdout_uses=2,
    )  # fmt: skip
    read = TuningSummary.from_json(json.loads(json.dumps(result.to_json())), result.history)
    assert (read.to_json(), read.nearest, read.races) == (result.to_json(), near, (race,))
    later = {**result.to_json(), "format": 99}
    with pytest.raises(WorkspaceError, match="has format 99, but this version reads up to 2"):
        TuningSummary.from_json(later, result.history)


OLD_SUMMARY = {
    "verdict": "missed", "best": 1, "reason": "none of 1 evaluated candidates keeps the target; this one loses least",
    "end_reason": "max_trials: 1 were tried", "interrupted": False,
    "criterion": {"relative": 0.01, "absolute": None, "higher_is_better": True, "confidence": None},
    "op_types": {"conv": "Conv"}, "costly_ops": {}, "saturation_risk": [], "final": None, "notes": [],
    "seconds": {"total": 3.0}, "host": "a machine", "trials": 2,
}  # fmt: skip
"""As the version before this format wrote it."""
OLD_MEASUREMENT = {
    "accuracy": 0.8, "loss": 0.05, "loss_interval": {"low": 0.03, "high": 0.07, "confidence": 0.95},
    "verdict": "missed", "metrics": {}, "latency_ms": 0.4, "latency_p90_ms": 0.5, "latency_p99_ms": 0.6,
    "latency_decided": True, "speedup": 1.5, "speedup_interval": {"low": 1.4, "high": 1.6, "confidence": 0.95},
    "size_bytes": 100, "peak_memory_bytes": None, "samples": 60, "samples_total": 60,
}  # fmt: skip


@pytest.mark.parametrize("ended", [True, False])
def test_a_workspace_of_an_earlier_version_is_read(tmp_path: Path, ended: bool) -> None:
    history = History(tmp_path, {"model": "m"})
    history.keep(SETUP, {"criterion": OLD_SUMMARY["criterion"], "objective": "latency", "op_types": {"conv": "Conv"}})
    from optuna.samplers import RandomSampler  # noqa: PLC0415  only here

    old = Trial(number=1, config=INT8, state=TrialState.COMPLETED, measurement=Measurement.from_json(OLD_MEASUREMENT))
    for each in (fp32(), old):
        opened = history.open(RandomSampler(seed=0))
        history.start(opened, each.config, "")
        history.finish(opened, each, Objective.LATENCY, 0.01)
    if ended:
        history.keep(SUMMARY, OLD_SUMMARY)
    read = read_summary(tmp_path)
    assert read.verdict is Verdict.MISSED
    assert "Target missed" in shown(read)
    assert "Target missed" in render(read)
    # The result that the old version returned is told as it was; a run that it did not end is concluded by today's
    # rule.
    assert (read.best if ended else read.nearest) == old


def on(runtime: str, number: int, speedup: float, **figures: Any) -> Trial:
    trial = candidate(number, speedup=speedup, **figures)
    return dataclasses.replace(trial, config=dataclasses.replace(trial.config, runtime=runtime))


def left(*trials: Trial, **options: Any) -> TuningSummary:
    values: dict[str, Any] = {
        "baseline_runtime": "onnxruntime", "fp32_speeds": {"toy": 0.4, "onnxruntime": 1.0}, "home_runtime": "toy",
        "speed": Verdict.MET, **options,
    }  # fmt: skip
    return summary(*trials, **values)


def test_leaving_the_framework_is_told_by_the_fastest_that_keep_the_target() -> None:
    missed = on("toy", 1, 1.9, verdict=Verdict.MISSED)
    result = left(missed, on("toy", 2, 0.5), on("onnxruntime", 3, 2.0))
    assert (
        result.leaving == "Leaving toy makes the model 4.00x as fast: trial 3 on onnxruntime instead of trial 2 on toy"
    )
    assert result.leaving in shown(result)
    assert result.leaving in render(result)


def test_fp32_stands_for_a_framework_of_which_nothing_else_is_known_to_keep_the_target() -> None:
    result = left(on("onnxruntime", 1, 2.0))
    assert result.leaving is not None
    assert result.leaving.endswith(
        "5.00x as fast: trial 1 on onnxruntime instead of fp32 on toy; no quantized model was scored on toy"
    )


def test_fp32_stands_for_another_runtime_without_a_candidate() -> None:
    result = left(on("toy", 1, 3.0))
    assert result.leaving is not None
    assert result.leaving.endswith("as fast as trial 1 on toy; no quantized model was scored on onnxruntime")


def test_candidates_that_miss_the_target_were_scored() -> None:
    result = left(on("toy", 1, 3.0, verdict=Verdict.MISSED), on("onnxruntime", 2, 2.0))
    assert result.leaving is not None
    assert result.leaving.endswith("instead of fp32 on toy")


def test_leaving_brings_nothing_where_the_framework_wins() -> None:
    result = left(on("onnxruntime", 1, 1.5), on("toy", 2, 3.0))
    assert result.leaving == "Leaving toy brings nothing: trial 1 on onnxruntime is 0.50x as fast as trial 2 on toy"


def test_leaving_is_told_of_the_answer_where_the_time_was_up_before_the_race() -> None:
    """A faster candidate that no race confirmed is not what the user is given."""
    here, there = on("toy", 1, 0.5), on("onnxruntime", 2, 2.0)
    stays = left(here, there, best=here)
    assert stays.leaving == (
        "Leaving toy is not known to bring anything: trial 2 on onnxruntime was measured 4.00x as fast as the answer, "
        "trial 1 on toy, which no race has confirmed"
    )
    slower = on("onnxruntime", 3, 1.5)
    leaves = left(here, there, slower, best=slower)
    assert (
        leaves.leaving == "Leaving toy makes the model 3.00x as fast: trial 3 on onnxruntime instead of trial 1 on toy"
    )
    given = left(here, there, best=fp32())
    assert given.leaving == "Leaving toy makes the model 2.00x as fast: fp32 on onnxruntime instead of trial 1 on toy"
    home = left(here, there, best=fp32(), baseline_runtime="toy", fp32_speeds={"toy": 1.0, "onnxruntime": 0.9})
    assert home.leaving is not None
    assert home.leaving.startswith(
        "Leaving toy is not known to bring anything: trial 2 on onnxruntime was measured 2.00x"
    )


@pytest.mark.parametrize(
    "options", [{"home_runtime": None}, {"fp32_speeds": {"toy": 1.0}}, {"objective": Objective.SIZE}]
)
def test_nothing_is_said_of_leaving_where_there_is_nothing_to_compare(options: dict[str, Any]) -> None:
    assert left(on("onnxruntime", 1, 1.5), **options).leaving is None


def test_a_framework_that_took_no_part_is_named() -> None:
    result = left(on("onnxruntime", 1, 1.5), fp32_speeds={"openvino": 0.9, "onnxruntime": 1.0})
    assert result.leaving == "toy took no part, so that the gain of leaving it is not known"


def test_summaries_of_other_runs_are_stored_as_before() -> None:
    assert "home_runtime" not in left(on("onnxruntime", 1, 1.5), home_runtime=None).to_json()
    stored = left(on("onnxruntime", 1, 1.5))
    again = TuningSummary.from_json(json.loads(json.dumps(stored.to_json())), stored.history)
    assert again.leaving == stored.leaving


def test_a_result_is_short_to_look_at() -> None:
    result = summary(*(candidate(number) for number in range(1, 200)))
    assert repr(result) == "<TuningSummary: Target met, trial 199, 1.43x as fast as fp32, 199 trials>"
    text = result._repr_html_()
    assert "<table>" in text
    assert len(text) < 3000
