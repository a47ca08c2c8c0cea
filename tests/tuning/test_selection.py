from __future__ import annotations

import dataclasses

import pytest

from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.criterion import Interval, Verdict
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.selection import conclude, faster, finalists, incumbent, next_rank, pareto_front

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
    between: tuple[float, float] | None = None,
    rank: int | None = None,
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
            speedup_interval=Interval(
                low=between[0] if between else speedup - width, high=between[1] if between else speedup + width
            ),
            latency_decided=between is None,  # an interval that is given is too wide
            size_bytes=size,
            rank=rank,
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


def test_fp32_is_the_answer_where_nothing_that_keeps_the_target_is_faster_and_it_says_so() -> None:
    for slow in (trial(1, speedup=0.8), trial(1, speedup=1.005)):
        conclusion = conclude([BASELINE, slow], Objective.LATENCY)
        assert (conclusion.best, conclusion.verdict) == (BASELINE, Verdict.MET)
        assert conclusion.speed is Verdict.MISSED
        assert conclusion.nearest is None
        assert "none has less latency than fp32 itself" in conclusion.reason


def test_candidates_that_were_too_slow_to_be_evaluated_leave_fp32_as_the_answer() -> None:
    slow = trial(1, loss=None, speedup=0.7, state=TrialState.PRUNED)
    conclusion = conclude([BASELINE, slow], Objective.LATENCY)
    assert (conclusion.best, conclusion.verdict) == (BASELINE, Verdict.MET)
    assert conclusion.speed is Verdict.MISSED


def test_a_speed_that_cannot_be_told_from_fp32_is_undecided_and_the_candidate_offered() -> None:
    wide = trial(1, speedup=46.77, between=(0.70, 51.08))
    conclusion = conclude([BASELINE, wide, trial(2, speedup=0.8)], Objective.LATENCY)
    assert (conclusion.best, conclusion.verdict) == (BASELINE, Verdict.MET)
    assert conclusion.speed is Verdict.UNDECIDED
    assert conclusion.nearest is wide
    assert "0.70x to 51.08x" in conclusion.reason


def test_a_wide_interval_above_one_is_an_answer_and_one_that_holds_it_is_none() -> None:
    first, second = trial(1, speedup=46.77, between=(0.70, 51.08)), trial(2, speedup=41.54, between=(1.45, 70.02))
    conclusion = conclude([BASELINE, first, second], Objective.LATENCY)
    assert (conclusion.best, conclusion.speed) == (second, Verdict.MET)
    assert "most is proven of its speed" in conclusion.reason
    assert [faster(first), faster(second)] == [None, True]
    known = trial(3, speedup=2.0)
    assert conclude([BASELINE, first, second, known], Objective.LATENCY).best is known


def test_what_the_race_found_comes_before_what_the_search_measured() -> None:
    told = trial(1, speedup=1.5)
    for found, speed in ((True, Verdict.MET), (False, Verdict.MISSED), (None, Verdict.UNDECIDED)):
        assert conclude([BASELINE, told], Objective.LATENCY, raced={1: found}).speed is speed


def test_where_nothing_keeps_the_target_fp32_is_the_answer_and_the_nearest_is_offered() -> None:
    trials = [BASELINE, missed(1, loss=0.05, speedup=3.0), missed(2, loss=0.02, speedup=2.0)]
    conclusion = conclude(trials, Objective.LATENCY)
    assert (conclusion.best, conclusion.verdict, conclusion.nearest) == (BASELINE, Verdict.MISSED, trials[2])
    assert conclusion.speed is None
    assert "none of 2 evaluated candidates" in conclusion.reason
    assert (
        "the only candidate that was evaluated, trial 2, does not"
        in conclude([BASELINE, trials[2]], Objective.LATENCY).reason
    )


def test_an_undecided_candidate_comes_before_one_that_missed() -> None:
    open_end = trial(2, loss=0.011, speedup=2.0, verdict=Verdict.UNDECIDED)
    conclusion = conclude([BASELINE, missed(1, loss=0.0101, speedup=3.0), open_end], Objective.LATENCY)
    assert (conclusion.best, conclusion.verdict, conclusion.nearest) == (BASELINE, Verdict.UNDECIDED, open_end)


def test_where_every_candidate_failed_the_target_is_missed() -> None:
    conclusion = conclude([BASELINE, trial(1, state=TrialState.FAILED)], Objective.LATENCY)
    assert (conclusion.best, conclusion.verdict, conclusion.nearest) == (BASELINE, Verdict.MISSED, None)
    assert "the only candidate failed" in conclusion.reason
    both = conclude([BASELINE, *(trial(n, state=TrialState.FAILED) for n in (1, 2))], Objective.LATENCY)
    assert "all 2 candidates failed" in both.reason


def test_what_was_only_prepared_is_not_called_quantized() -> None:
    alone = dataclasses.replace(trial(1, speedup=1.4), config=QuantizationConfig(prepared=True))
    for others in ([], [trial(2, speedup=1.2)], [missed(2, loss=0.1, speedup=2.0)]):
        conclusion = conclude([BASELINE, alone, *others], Objective.LATENCY)
        assert (conclusion.best, conclusion.verdict, conclusion.speed) == (alone, Verdict.MET, Verdict.MET)
        assert conclusion.reason.startswith("preparation alone, with no op quantized: ")
    slow = dataclasses.replace(trial(1, speedup=0.9), config=QuantizationConfig(prepared=True))
    for trials in (
        [BASELINE, slow],
        [BASELINE, dataclasses.replace(slow, state=TrialState.FAILED, measurement=None, reason="why")],
    ):
        assert "quantized" not in conclude(trials, Objective.LATENCY).reason


def test_where_nothing_was_tried_nothing_is_met() -> None:
    running = Trial(number=1, config=trial(1).config, state=TrialState.RUNNING)
    for trials in ([BASELINE], [BASELINE, running]):
        conclusion = conclude(trials, Objective.LATENCY)
        assert (conclusion.best, conclusion.verdict) == (BASELINE, Verdict.UNDECIDED)
        assert "nothing was tried" in conclusion.reason


def test_a_candidate_that_is_the_fp32_model_itself_keeps_the_target_at_its_speed() -> None:
    same = dataclasses.replace(trial(1), same_as=0)
    conclusion = conclude([BASELINE, same], Objective.LATENCY)
    assert (conclusion.best, conclusion.verdict, conclusion.speed) == (BASELINE, Verdict.MET, Verdict.MISSED)


def test_an_undecided_speedup_is_never_the_best_so_far() -> None:
    wide = trial(1, speedup=46.77, between=(1.45, 51.08))
    assert incumbent([BASELINE, wide, trial(2, speedup=1.2)], Objective.LATENCY) == trial(2, speedup=1.2)
    assert incumbent([BASELINE, wide], Objective.LATENCY) is BASELINE
    assert incumbent([BASELINE, dataclasses.replace(wide)], Objective.SIZE) is not None


def test_least_latency_is_said_only_where_it_is_so() -> None:
    met = [trial(1, speedup=1.3), trial(2, speedup=1.5), trial(3, speedup=1.4)]
    assert "least latency of the 3" in conclude([BASELINE, *met], Objective.LATENCY).reason
    faster_but_wide = trial(4, speedup=1.9, between=(0.9, 3.0))
    assert "least latency" not in conclude([BASELINE, *met, faster_but_wide], Objective.LATENCY).reason


@pytest.mark.parametrize("objective", [Objective.SIZE, Objective.MEMORY])
def test_texts_are_of_what_the_run_was_to_make_small(objective: Objective) -> None:
    def sized(number: int, peak: int) -> Trial:
        made = trial(number, size=peak, speedup=3.0)
        assert made.measurement is not None
        return dataclasses.replace(made, measurement=dataclasses.replace(made.measurement, peak_memory_bytes=peak))

    smaller = conclude([sized(0, 100), sized(1, 60), sized(2, 40)], objective)
    assert smaller.reason == f"least {objective} of the 2 candidates that keep the target"
    assert smaller.best.number == 2
    assert smaller.speed is None
    larger = conclude([sized(0, 100), sized(1, 160)], objective)
    assert larger.best.config.is_fp32
    assert f"none has less {objective} than fp32" in larger.reason


def test_ranks_follow_from_the_history() -> None:
    """A trial without an accuracy takes none, a repeat neither; what is stored counts where it is more."""
    repeat = dataclasses.replace(trial(4), same_as=1)
    pruned = trial(2, loss=None, state=TrialState.PRUNED)
    assert next_rank([BASELINE]) == 1
    assert next_rank([BASELINE, trial(1), pruned, trial(3, state=TrialState.FAILED), repeat]) == 2
    assert next_rank([BASELINE, trial(1, rank=1), trial(5, rank=7)]) == 8


def test_a_pruned_trial_is_no_incumbent() -> None:
    early = trial(1, speedup=3.0, state=TrialState.PRUNED)
    assert incumbent([BASELINE, early], Objective.LATENCY) is BASELINE


def test_finalists_are_those_that_cannot_be_told_from_the_best() -> None:
    trials = [BASELINE, trial(1, speedup=2.0), trial(2, speedup=1.98), trial(3, speedup=1.7)]
    assert finalists(trials, Objective.LATENCY) == [trials[1], trials[2]]
    assert finalists(trials, Objective.SIZE) == []  # exact: there is nothing to race for


def test_fp32_is_no_finalist_and_what_is_slower_than_it_neither() -> None:
    assert finalists([BASELINE, trial(1, speedup=0.9)], Objective.LATENCY) == []
    close = trial(1, speedup=1.01)
    assert finalists([BASELINE, close], Objective.LATENCY) == [close]


def test_one_wide_interval_keeps_nobody_out() -> None:
    wide, other = trial(1, speedup=46.77, between=(0.70, 51.08)), trial(2, speedup=41.54, between=(1.45, 70.02))
    assert finalists([BASELINE, wide, other], Objective.LATENCY) == [other, wide]
    decided = [trial(number, speedup=2.0) for number in range(2, 7)]
    chosen = finalists([BASELINE, wide, *decided], Objective.LATENCY)
    assert chosen == [*decided[:4], wide]
    many = [trial(number, speedup=40.0, between=(0.7, 51.0)) for number in range(10, 16)]
    assert decided[0] in finalists([BASELINE, *many, decided[0]], Objective.LATENCY)


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
