"""Which finalist is the answer once they were raced, on scripted races, evaluations and holdouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.criterion import Criterion, Interval, Verdict
from autotune.errors import DeadlineReached, TrialError
from autotune.evaluation import RaceResult
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.answer import Answer, provisional, settle
from autotune.tuning.history import HOLDOUT
from autotune.tuning.race import Race

Speed = tuple[float, float, bool | None]
"""A finalist's result in a race: its interval, and whether it is faster than fp32."""


def trial(
    number: int,
    loss: float,
    *,
    samples: int = 100,
    verdict: Verdict | None = None,
    between: tuple[float, float] | None = None,
    size: int = 100,
) -> Trial:
    quantized = {f"op{number}": OpConfig(precision=Precision.INT8)} if number else {}
    low, high = between or ((1.9, 2.1) if number else (1.0, 1.0))
    return Trial(
        number=number,
        config=QuantizationConfig(ops=quantized),
        state=TrialState.COMPLETED,
        measurement=Measurement(
            loss=loss,
            verdict=verdict or (Verdict.MET if loss <= 0.01 else Verdict.MISSED),
            latency_ms=1.0,
            speedup=(low + high) / 2,
            speedup_interval=Interval(low=low, high=high),
            latency_decided=between is None,
            size_bytes=size,
            samples=samples,
            samples_total=100,
        ),
    )


BASELINE = trial(0, 0.0)


class Memory:
    """As much of a history as the finals need."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = list(trials)
        self.stored: dict[str, Any] = {}

    def revise(self, revised: Trial) -> None:
        position = next(index for index, each in enumerate(self.trials) if each.number == revised.number)
        self.trials[position] = revised

    def kept(self, name: str) -> Any:
        return self.stored.get(name)

    def keep(self, name: str, value: Any) -> None:
        self.stored[name] = value

    def __getitem__(self, number: int) -> Trial:
        return next(each for each in self.trials if each.number == number)


class Scripted:
    """An evaluator that answers from a script.

    Args:
        races: For each race in its order, what it says by trial number; an exception is raised.
        beaten: Numbers that every race they are in proves slower than another finalist.
        whole: By number, what a trial loses on all samples; an exception is raised.
        held_out: By number, the interval of the loss on the data held out; None: nothing was held out.
    """

    def __init__(
        self,
        races: Sequence[Mapping[int, Speed] | Exception] = (),
        *,
        beaten: Sequence[int] = (),
        whole: Mapping[int, float | Exception] | None = None,
        held_out: Mapping[int, tuple[float, float] | Exception] | None = None,
    ) -> None:
        self._races = list(races)
        self._beaten = beaten
        self._whole = whole or {}
        self._held_out = held_out
        self.raced: list[list[int]] = []
        self.ranks: list[int] = []
        self.deadlines: list[tuple[str, float | None]] = []

    def race(self, models: Sequence[Trial], *, deadline: float | None) -> RaceResult:
        self.deadlines.append(("race", deadline))
        numbers = [model.number for model in models]
        self.raced.append(numbers)
        script = self._races[min(len(self.raced), len(self._races)) - 1]
        if isinstance(script, Exception):
            raise script
        found = [script[number] for number in numbers]
        speedups = [(low + high) / 2 for low, high, _ in found]
        out = [number in self._beaten and len(numbers) > 1 for number in numbers]
        order = sorted(range(len(numbers)), key=lambda index: (out[index], -speedups[index]))
        return RaceResult(
            order=tuple(order),
            speedups=tuple(speedups),
            intervals=tuple(Interval(low=low, high=high) for low, high, _ in found),
            latencies_ms=tuple(0.5 / speedup for speedup in speedups),
            baseline_ms=0.5,
            rounds=(10,) * len(numbers),
            decided=all(faster is not None for *_, faster in found),
            survivors=tuple(index for index in order if not out[index]),
            faster=tuple(faster for *_, faster in found),
            sessions=2,
        )

    def complete(self, model: Trial, measured: Measurement, *, deadline: float | None) -> Measurement:
        self.deadlines.append(("complete", deadline))
        loss = self._whole[model.number]
        if isinstance(loss, Exception):
            raise loss
        verdict = Verdict.MET if loss <= 0.01 else Verdict.MISSED
        return dataclasses.replace(measured, samples=100, loss=loss, verdict=verdict)

    def holdout(self, model: Trial, *, rank: int, deadline: float | None) -> Measurement | None:  # noqa: ARG002
        if self._held_out is None:
            return None
        self.ranks.append(rank)
        found = self._held_out[model.number]
        if isinstance(found, Exception):
            raise found
        interval = Interval(low=found[0], high=found[1])
        return Measurement(loss=sum(found) / 2, loss_interval=interval, verdict=Criterion().shown(interval))


def finals(
    trials: Sequence[Trial], evaluator: Scripted, objective: Objective = Objective.LATENCY
) -> tuple[Answer, Memory, list[str]]:
    """The answer of the finals, the history after them, and the notes."""
    memory, notes = Memory([BASELINE, *trials]), list[str]()
    history: Any = memory
    scripted: Any = evaluator
    answer = settle(history, scripted, lambda each: each, objective, deadline=None, note=notes.append)
    return answer, memory, notes


def outcome(answer: Answer) -> tuple[int, Verdict, Verdict | None]:
    return answer.conclusion.best.number, answer.conclusion.verdict, answer.conclusion.speed


MET = Verdict.MET
FAST: dict[int, Speed] = {1: (1.98, 2.02, True), 2: (1.97, 2.01, True), 3: (1.9, 1.99, True)}


def test_accuracy_decides_between_finalists_that_are_as_fast() -> None:
    answer, *_ = finals([trial(1, 0.008), trial(2, 0.001), trial(3, 0.004)], Scripted([FAST]))
    assert outcome(answer) == (2, MET, MET)
    assert "loses least" in answer.conclusion.reason
    assert "the fastest of 3 finalists in a race, of 3 candidates" in answer.conclusion.reason


def test_speed_decides_where_the_race_could_tell() -> None:
    answer, *_ = finals([trial(1, 0.008), trial(2, 0.001)], Scripted([FAST], beaten=[2]))
    assert outcome(answer) == (1, MET, MET)
    assert "loses least" not in answer.conclusion.reason


def test_fp32_wins_no_tie_by_its_loss_of_zero() -> None:
    """The machine was busy in the search; the race tells the one from fp32, and of the other it does not know."""
    wide = [trial(1, 0.009, between=(0.70, 51.08)), trial(2, 0.008, between=(1.45, 70.02))]
    answer, *_ = finals(wide, Scripted([{1: (1.3, 1.4, True), 2: (0.98, 1.45, None)}]))
    assert outcome(answer) == (1, MET, MET)


def test_the_answers_figure_is_that_of_the_race() -> None:
    answer, memory, _ = finals([trial(1, 0.0)], Scripted([{1: (1.3, 1.5, True)}]))
    for stored in (answer.conclusion.best, memory[1]):
        measured = stored.measurement
        assert measured is not None
        assert measured.speedup == pytest.approx(1.4)
        assert measured.speedup_interval == Interval(low=1.3, high=1.5)
        assert measured.baseline_ms == pytest.approx(0.5)
        assert measured.baseline_ms / measured.latency_ms == pytest.approx(measured.speedup)  # type: ignore[operator]  # measured
        assert measured.latency_sessions == 2
    (race,) = answer.races
    assert race.finalists[0].searched == pytest.approx(2.0)
    assert race.finalists[0].speedup == pytest.approx(1.4)
    assert Race.from_json(race.to_json()) == race


@pytest.mark.parametrize(("samples", "left_s"), [(100, 0.0), (40, 12.0)])
def test_a_race_leaves_time_for_the_samples_that_a_winner_was_spared(samples: int, left_s: float) -> None:
    """The race took all the time that was left, and the answer was undecided for want of samples."""
    evaluator: Any = Scripted([FAST], whole={1: 0.0})
    history: Any = Memory([dataclasses.replace(BASELINE, duration_s=20.0), trial(1, 0.0, samples=samples)])
    settle(history, evaluator, lambda each: each, Objective.LATENCY, deadline=1000.0, note=print)
    assert evaluator.deadlines[0] == ("race", 1000.0 - left_s)
    assert evaluator.deadlines[1:] == ([("complete", 1000.0)] if left_s else [])


def test_estimates_are_completed_before_they_decide() -> None:
    # The candidate with the least loss after 40 samples has some once all are seen.
    estimates = [trial(1, 0.008), trial(2, 0.001, samples=40)]
    answer, *_ = finals(estimates, Scripted([FAST], whole={2: 0.009}))
    assert outcome(answer) == (1, MET, MET)
    assert answer.conclusion.best.loss == 0.008


def test_a_tied_finalist_that_turns_out_to_miss_is_none() -> None:
    answer, memory, notes = finals([trial(1, 0.008, samples=40), trial(2, 0.009)], Scripted([FAST], whole={1: 0.02}))
    assert outcome(answer) == (2, MET, MET)
    assert "loses least" not in answer.conclusion.reason
    assert memory[1].measurement is not None
    assert memory[1].measurement.verdict is Verdict.MISSED
    assert "Trial 1 was accepted early" in notes[0]


def test_a_winner_that_misses_leaves_the_race_to_those_that_it_beat() -> None:
    evaluator = Scripted([FAST], beaten=[2], whole={1: 0.02})
    answer, *_ = finals([trial(1, 0.008, samples=40), trial(2, 0.009)], evaluator)
    assert outcome(answer) == (2, MET, MET)
    assert evaluator.raced == [[1, 2], [2]]


def test_a_finalist_that_cannot_be_completed_fails() -> None:
    evaluator = Scripted([FAST], whole={1: TrialError("out of patience")})
    answer, memory, _ = finals([trial(1, 0.008, samples=40), trial(2, 0.009)], evaluator)
    assert answer.conclusion.best.number == 2
    assert memory[1].state is TrialState.FAILED


def test_what_is_no_faster_in_the_race_leaves_fp32() -> None:
    answer, *_ = finals([trial(1, 0.0)], Scripted([{1: (0.99, 1.01, False)}]))
    assert outcome(answer) == (0, MET, Verdict.MISSED)
    assert answer.conclusion.nearest is None


def test_what_stays_undecided_is_measured_again() -> None:
    trials = [trial(1, 0.0), trial(2, 0.0), trial(3, 0.0)]
    first: dict[int, Speed] = {1: (0.9, 3.0, None), 2: (0.95, 0.99, False), 3: (0.8, 2.0, None)}
    second: dict[int, Speed] = {1: (1.4, 1.5, True), 3: (0.9, 1.3, None)}
    evaluator = Scripted([first, second])
    answer, *_ = finals(trials, evaluator)
    assert evaluator.raced == [[1, 2, 3], [1, 3]]
    assert outcome(answer) == (1, MET, MET)
    assert len(answer.races) == 2


def test_a_speed_that_stays_undecided_is_said_to_be_so() -> None:
    evaluator = Scripted([{1: (0.9, 3.0, None), 2: (0.95, 0.99, False)}])
    answer, memory, _ = finals([trial(1, 0.0), trial(2, 0.0)], evaluator)
    assert evaluator.raced == [[1, 2], [1]]
    assert outcome(answer) == (0, MET, Verdict.UNDECIDED)
    assert answer.conclusion.nearest == memory[1]
    assert "0.90x to 3.00x" in answer.conclusion.reason
    assert memory[1].measurement is not None
    assert memory[1].measurement.latency_decided is False


def test_one_proven_faster_is_enough() -> None:
    evaluator = Scripted([{1: (0.9, 3.0, None), 2: (1.1, 1.2, True)}])
    answer, *_ = finals([trial(1, 0.0), trial(2, 0.0)], evaluator)
    assert outcome(answer) == (2, MET, MET)
    assert len(evaluator.raced) == 1


def test_a_miss_on_the_data_held_out_makes_room_for_the_next() -> None:
    evaluator = Scripted([FAST], held_out={2: (0.012, 0.03), 3: (0.011, 0.02), 1: (-0.002, 0.015)})
    answer, memory, notes = finals([trial(1, 0.008), trial(2, 0.001), trial(3, 0.004)], evaluator)
    assert outcome(answer) == (1, MET, MET)
    assert evaluator.ranks == [1, 2, 3]
    assert answer.holdout_uses == 3
    assert answer.final is not None
    assert answer.final.loss_interval == Interval(low=-0.002, high=0.015)
    assert memory[2].measurement is not None
    assert memory[2].measurement.verdict is Verdict.MISSED
    assert "misses the target on the data held out" in str(memory[2].reason)
    assert len(notes) == 2


def test_where_all_miss_on_the_data_held_out_the_target_is_missed() -> None:
    evaluator = Scripted([FAST], held_out={1: (0.012, 0.03), 2: (0.011, 0.02)})
    answer, memory, _ = finals([trial(1, 0.008), trial(2, 0.001)], evaluator)
    assert outcome(answer) == (0, Verdict.MISSED, None)
    assert answer.conclusion.nearest == memory[2]
    assert answer.final is None


def test_an_interval_that_holds_the_target_shows_no_miss() -> None:
    answer, *_ = finals([trial(1, 0.008)], Scripted([FAST], held_out={1: (-0.06, 0.064)}))
    assert outcome(answer) == (1, MET, MET)
    assert answer.final is not None
    assert answer.final.verdict is Verdict.UNDECIDED


def test_a_run_that_continues_counts_what_the_data_held_out_was_used_for() -> None:
    evaluator = Scripted([FAST], held_out={1: (0.0, 0.02), 2: (0.0, 0.02)})
    history: Any = Memory([BASELINE, trial(1, 0.008)])
    scripted: Any = evaluator

    def settled() -> Answer:
        return settle(history, scripted, lambda each: each, Objective.LATENCY, deadline=None, note=print)

    first = settled()
    assert settled().final == first.final
    assert evaluator.ranks == [1]
    history.trials.append(trial(2, 0.001))
    again = settled()
    assert again.conclusion.best.number == 2
    assert evaluator.ranks == [1, 2]
    assert again.holdout_uses == 2
    assert set(history.stored[HOLDOUT]) == {"1", "2"}


@pytest.mark.parametrize("objective", [Objective.SIZE, Objective.MEMORY])
def test_the_data_held_out_decides_for_every_objective(objective: Objective) -> None:
    trials = [trial(1, 0.001, size=40), trial(2, 0.002, size=60)]
    for index, each in enumerate(trials):
        assert each.measurement is not None
        measured = dataclasses.replace(each.measurement, peak_memory_bytes=40 + 20 * index)
        trials[index] = dataclasses.replace(each, measurement=measured)
    evaluator = Scripted(held_out={1: (0.012, 0.03), 2: (0.0, 0.02)})
    answer, *_ = finals(trials, evaluator, objective)
    assert outcome(answer) == (2, MET, None)
    assert evaluator.raced == []


def test_the_nearest_is_seen_in_full_and_fp32_is_returned() -> None:
    misses = [trial(1, 0.02, samples=30), trial(2, 0.03, samples=30)]
    answer, memory, _ = finals(misses, Scripted(whole={1: 0.05, 2: 0.04}))
    assert outcome(answer) == (0, Verdict.MISSED, None)
    assert answer.conclusion.nearest == memory[2]
    assert memory[2].loss == 0.04
    assert "trial 2 loses least" in answer.conclusion.reason


def test_an_estimate_that_keeps_the_target_after_all_is_raced() -> None:
    answer, *_ = finals([trial(1, 0.02, samples=30)], Scripted([FAST], whole={1: 0.005}))
    assert outcome(answer) == (1, MET, MET)


LATE = DeadlineReached("The time given to the run ended")


def test_without_time_for_a_race_the_search_decides() -> None:
    trials = [trial(1, 0.0), trial(2, 0.0, between=(0.7, 51.0))]
    answer, _, notes = finals(trials, Scripted([LATE]))
    assert outcome(answer) == (1, MET, MET)
    assert len(notes) == 1
    assert "before the finalists could be raced" in notes[0]
    answer, *_ = finals(trials[1:], Scripted([LATE]))
    assert outcome(answer) == (0, MET, Verdict.UNDECIDED)


def test_finalists_that_cannot_be_raced_leave_the_figures_of_the_search() -> None:
    answer, _, notes = finals([trial(1, 0.0)], Scripted([TrialError("no such kernel")]))
    assert outcome(answer) == (1, MET, MET)
    assert "no such kernel" in notes[0]


def test_without_time_for_all_samples_an_early_acceptance_meets_nothing() -> None:
    answer, *_ = finals([trial(1, 0.001, samples=40)], Scripted([FAST], whole={1: LATE}))
    assert outcome(answer) == (0, Verdict.UNDECIDED, None)
    assert answer.conclusion.nearest is not None
    assert "before the best candidate could be evaluated on all samples" in answer.conclusion.reason
    both = [trial(1, 0.001, samples=40), trial(2, 0.009)]
    answer, *_ = finals(both, Scripted([FAST], whole={1: LATE}))
    assert outcome(answer) == (2, MET, MET)


@pytest.mark.parametrize("error", [LATE, TrialError("out of memory")])
def test_an_answer_that_could_not_be_measured_on_the_data_held_out_says_so(error: Exception) -> None:
    answer, _, notes = finals([trial(1, 0.001)], Scripted([FAST], held_out={1: error}))
    assert outcome(answer) == (1, MET, MET)
    assert answer.final is None
    assert "data held out" in notes[0]


def test_nothing_was_tried() -> None:
    answer, *_ = finals([], Scripted())
    assert outcome(answer) == (0, Verdict.UNDECIDED, None)


def test_a_run_that_was_ended_takes_what_is_proven() -> None:
    trials = [BASELINE, trial(1, 0.0), trial(2, 0.0, between=(0.7, 51.0)), trial(3, 0.0, samples=30)]
    assert provisional(trials, Objective.LATENCY).best.number == 1
    assert provisional(trials[:1] + trials[2:], Objective.LATENCY).speed is Verdict.UNDECIDED
