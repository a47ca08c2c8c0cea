from __future__ import annotations

from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.criterion import Interval, Verdict
from autotune.selection import conclude, finalists, incumbent, pareto_front
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState

INT8 = OpConfig(precision=Precision.INT8)


def trial(
    number: int,
    *,
    loss: float | None = 0.0,
    speedup: float = 1.0,
    verdict: Verdict | None = Verdict.MET,
    state: TrialState = TrialState.COMPLETED,
    size: int = 100,
    width: float = 0.02,
) -> Trial:
    failed = state is TrialState.FAILED
    return Trial(
        number=number,
        config=QuantizationConfig(ops={f"op{number}": INT8} if number else {}),
        state=state,
        measurement=None
        if failed
        else Measurement(
            loss=loss,
            verdict=verdict if loss is not None else None,
            speedup=speedup,
            speedup_interval=Interval(low=speedup - width, high=speedup + width),
            size_bytes=size,
        ),
        reason=None if state is TrialState.COMPLETED else "some reason",
    )


BASELINE = trial(0)


def missed(number: int, **options: float) -> Trial:
    return trial(number, verdict=Verdict.MISSED, **options)  # type: ignore[arg-type]  # loss and speedup only


def test_the_fastest_that_keeps_the_target_is_the_answer() -> None:
    trials = [BASELINE, missed(1, loss=0.05, speedup=3.0), trial(2, speedup=2.0), trial(3, speedup=1.5)]
    assert incumbent(trials, Objective.LATENCY) is trials[2]
    conclusion = conclude(trials, Objective.LATENCY)
    assert (conclusion.best, conclusion.verdict) == (trials[2], Verdict.MET)


def test_the_smallest_is_the_answer_where_size_counts() -> None:
    trials = [BASELINE, trial(1, speedup=2.0, size=60), trial(2, speedup=1.5, size=40)]
    assert conclude(trials, Objective.SIZE).best is trials[2]


def test_fp32_is_the_answer_where_it_is_the_fastest_and_it_says_so() -> None:
    conclusion = conclude([BASELINE, trial(1, speedup=0.8)], Objective.LATENCY)
    assert (conclusion.best, conclusion.verdict) == (BASELINE, Verdict.MET)
    assert "none has less latency than fp32 itself" in conclusion.reason


def test_candidates_that_were_too_slow_to_be_evaluated_leave_fp32_as_the_answer() -> None:
    slow = trial(1, loss=None, speedup=0.7, state=TrialState.PRUNED)
    conclusion = conclude([BASELINE, slow], Objective.LATENCY)
    assert (conclusion.best, conclusion.verdict) == (BASELINE, Verdict.MET)


def test_the_nearest_miss_is_returned_where_nothing_keeps_the_target() -> None:
    trials = [BASELINE, missed(1, loss=0.05, speedup=3.0), missed(2, loss=0.02, speedup=2.0)]
    conclusion = conclude(trials, Objective.LATENCY)
    assert (conclusion.best, conclusion.verdict) == (trials[2], Verdict.MISSED)


def test_an_undecided_candidate_comes_before_one_that_missed() -> None:
    open_end = trial(2, loss=0.011, speedup=2.0, verdict=Verdict.UNDECIDED)
    conclusion = conclude([BASELINE, missed(1, loss=0.0101, speedup=3.0), open_end], Objective.LATENCY)
    assert (conclusion.best, conclusion.verdict) == (open_end, Verdict.UNDECIDED)


def test_where_every_candidate_failed_the_target_is_missed() -> None:
    conclusion = conclude([BASELINE, trial(1, state=TrialState.FAILED)], Objective.LATENCY)
    assert (conclusion.best, conclusion.verdict) == (BASELINE, Verdict.MISSED)
    assert "all 1 quantized candidates failed" in conclusion.reason


def test_a_pruned_trial_is_no_incumbent() -> None:
    early = trial(1, speedup=3.0, state=TrialState.PRUNED)
    assert incumbent([BASELINE, early], Objective.LATENCY) is BASELINE


def test_finalists_are_those_that_cannot_be_told_from_the_best() -> None:
    trials = [BASELINE, trial(1, speedup=2.0), trial(2, speedup=1.98), trial(3, speedup=1.7)]
    assert finalists(trials, Objective.LATENCY) == [trials[1], trials[2]]
    assert finalists(trials, Objective.SIZE) == [BASELINE]


def test_the_winner_of_the_race_is_the_answer() -> None:
    trials = [BASELINE, trial(1, speedup=2.0), trial(2, speedup=1.98)]
    assert conclude(trials, Objective.LATENCY, winner=trials[2]).best is trials[2]


def test_the_front_holds_what_nothing_else_beats_in_both() -> None:
    trials = [
        BASELINE,
        missed(1, loss=0.05, speedup=3.0),
        trial(2, loss=0.01, speedup=2.0),
        trial(3, loss=0.02, speedup=1.9),
        trial(4, loss=-0.01, speedup=1.2),
    ]
    assert [t.number for t in pareto_front(trials)] == [1, 2, 4]
