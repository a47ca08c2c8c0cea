"""The rules by which ``auto`` goes on, ends and distrusts, each one apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from autotune.config import Precision, QuantizationConfig
from autotune.criterion import Criterion, Verdict
from autotune.strategies import create_strategy
from autotune.strategies.auto import Auto
from autotune.strategies.auto.cost_model import Costs
from autotune.strategies.auto.estimates import Estimates
from autotune.strategies.auto.loss_model import Template
from autotune.strategies.auto.prediction import Vector
from autotune.strategies.auto.program import Conversions, Flags, Program
from autotune.strategies.auto.steps import Gap, certain_gaps, single_steps
from autotune.strategy import Objective, Problem
from autotune.testing.driver import Run
from autotune.testing.synthetic import Synthetic, make_model, with_precisions
from autotune.trial import Measurement, Trial, TrialState

TARGET = 0.01


def trial(
    config: QuantizationConfig, loss: float | None, *, speedup: float = 2.0, decided: bool = True, samples: int = 1000
) -> Trial:
    """A trial that lost so much."""
    verdict = None if loss is None else Verdict.MET if loss <= TARGET else Verdict.MISSED
    return Trial(
        number=1,
        config=config,
        state=TrialState.COMPLETED,
        measurement=Measurement(
            loss=loss, speedup=speedup, latency_decided=decided, verdict=verdict, samples=samples, samples_total=1000
        ),
    )


def estimates_of(model: Synthetic, errors: np.ndarray | None = None) -> tuple[Problem, Estimates]:
    """Estimates that know the error of each step."""
    problem = model.problem(target=TARGET)
    estimates = Estimates(problem, trial(QuantizationConfig(), 0.0, speedup=1.0))
    config = model.space.preferred
    steps = single_steps(problem, config)
    if errors is None:
        errors = np.array([model.sensitivity()[step.op] for step in steps])
    steps = [
        dataclasses.replace(step, error=float(error), opening_error=float(error))
        for step, error in zip(steps, errors, strict=True)
    ]
    estimates.use(Template(config=config, steps=steps, measured=True))
    return problem, estimates


def flags(ops: int, *on: int) -> Flags:
    """The choice with these steps taken."""
    choice = np.zeros(ops, dtype=bool)
    choice[list(on)] = True
    return choice


def test_eight_misses_are_waited_for_before_predictions_are_given_up() -> None:
    # Candidates that fail say nothing of losses: the predictions can neither be corrected nor refuted.
    model = make_model(40, total_loss=0.03, harmful=40, rich=False)
    plan = Auto(spare=0).plan(model.problem(target=TARGET))
    next(plan)
    notes: list[str] = []
    reason = ""
    try:
        notes.append(plan.send(trial(QuantizationConfig(), 0.0, speedup=1.0)).note)
        while len(notes) < 100:
            failed = Trial(number=1, config=model.space.preferred, state=TrialState.FAILED, reason="out of memory")
            notes.append(plan.send(failed).note)
    except StopIteration as end:
        reason = str(end.value)
    assert sum("predicted loss" in note for note in notes) == 8
    assert reason.startswith("target missed by all candidates, with ever fewer ops quantized")


def test_the_limit_of_the_loss_halves_with_each_clear_miss_from_the_third_on() -> None:
    model = make_model(10, rich=False, total_loss=0.03, harmful=10)
    _, estimates = estimates_of(model)
    limits = []
    for taken in range(5):
        choice = flags(10, *range(taken))
        estimates.add(choice, trial(estimates.config(choice), 0.05))
        limits.append(estimates.limit())
    assert limits[:2] == [float("inf")] * 2
    assert limits[3] <= 0.5 * TARGET * 5
    lowest = min(estimates.predicted_loss(flags(10, *range(taken))) for taken in range(5))
    assert limits[4] == pytest.approx(0.5**3 * max(lowest, TARGET))
    following = estimates.next(0.0)
    assert following is None or estimates.predicted_loss(following) <= limits[4]


def test_what_one_config_kept_another_with_more_ops_in_fp32_keeps() -> None:
    model = make_model(6, rich=False, total_loss=0.03, harmful=6)
    _, estimates = estimates_of(model)
    choices = np.array([flags(6, 0, 1), flags(6, 0, 1, 2), flags(6, 2), flags(6)])
    estimates.add(choices[0], trial(estimates.config(choices[0]), 0.002))
    estimates.add(choices[2], trial(estimates.config(choices[2]), 0.04))
    asked = estimates.with_verdicts(choices, np.full(4, 0.5))
    assert asked[0] == asked[1] == pytest.approx(0.9)
    assert asked[2] == asked[3] == pytest.approx(0.1)
    assert [estimates.verdict(choice) for choice in choices] == [True, True, False, False]
    assert estimates.verdict(flags(6, 3)) is None


@pytest.mark.parametrize(("idle", "more"), [(0.0, False), (4.0, True)])
def test_what_did_not_win_makes_the_next_choice_more_careful(idle: float, more: bool) -> None:
    model = make_model(10, rich=False, total_loss=0.03, harmful=10)
    _, estimates = estimates_of(model)
    eager, asked = estimates.next(0.0), estimates.next(idle)
    assert eager is not None
    assert asked is not None
    assert (estimates.predicted_loss(asked) < estimates.predicted_loss(eager)) is more


@pytest.mark.parametrize(("samples", "spent"), [(1000, 1.0), (250, 0.25)])
def test_patience_is_counted_in_evaluations_since_the_last_win(
    monkeypatch: pytest.MonkeyPatch, samples: int, spent: float
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(Estimates, "next", _asking(Estimates.next, asked))
    # The first misses, so that there is something to choose from.
    model = dataclasses.replace(make_model(14, rich=False, total_loss=0.02, harmful=14), error_scale=0.5)
    plan = Auto(spare=0, patience=1).plan(model.problem(target=TARGET))
    next(plan)
    answer = trial(QuantizationConfig(), 0.0, speedup=1.0)
    reason = ""
    try:
        for count in range(100):
            proposal = plan.send(answer)
            # The second is the fastest of all, and whatever follows is slower.
            loss, speedup = ((0.02, 2.0), (0.0, 1.6))[count] if count < 2 else (0.0, 1.5)
            answer = trial(proposal.config, loss, speedup=speedup, samples=samples)
    except StopIteration as end:
        reason = str(end.value)
    assert asked[:2] == [0.0, 0.0]
    assert np.diff(asked[1:]) == pytest.approx(spent)
    assert len(asked[1:]) == round(1 / spent)
    assert f"{spent * round(1 / spent):.1f} evaluations, did not win" in reason


def _asking(ask: Callable[[Estimates, float], Flags | None], asked: list[float]) -> Callable[..., Flags | None]:
    """Asks for the next choice, and notes how careful it has to be."""

    def asking(estimates: Estimates, idle: float) -> Flags | None:
        asked.append(idle)
        return ask(estimates, 0.0)

    return asking


def test_what_verdicts_say_of_other_choices_decides_what_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(10, rich=False, total_loss=0.03, harmful=10)
    _, estimates = estimates_of(model)
    following = estimates.next(0.0)
    assert following is not None

    def ruled_out(self: Estimates, choices: Flags, probability: Vector) -> Vector:  # noqa: ARG001
        return np.where((choices == following).all(axis=1), 0.0, probability)

    monkeypatch.setattr(Estimates, "with_verdicts", ruled_out)
    other = estimates.next(0.0)
    assert other is not None
    assert (other != following).any()


def test_pairs_are_swapped_where_no_single_change_fits() -> None:
    # The cut takes op 0; ops 1 and 2 together would be cheaper and lose as little, and each alone loses too much.
    rng = np.random.default_rng(0)
    better = 0
    for _ in range(30):
        gain, loss = rng.uniform(0.5, 1.0, 8), rng.uniform(0.5, 1.0, 8)
        program = Program(gain=gain, loss=loss, conversions=Conversions(8, {}, {}))
        budget = 0.5 * float(loss.sum())
        (choice,) = program.solve([budget])
        cost, spent = float(program.cost(choice[None])[0]), float(loss @ ~choice)
        for back in np.flatnonzero(choice):
            for away in np.flatnonzero(~choice):
                swapped = choice.copy()
                swapped[[back, away]] ^= True
                fits = spent + loss[back] - loss[away] <= budget
                assert not fits or program.cost(swapped[None])[0] >= cost - 1e-12
                better += fits
    assert better


def test_a_speed_that_nobody_could_tell_is_not_the_best_so_far() -> None:
    model = make_model(6, rich=False, total_loss=0.005)
    _, estimates = estimates_of(model)
    choice = flags(6)
    # A busy machine: 46 times as fast, and undecided.
    assert estimates.add(choice, trial(estimates.config(choice), 0.0, speedup=46.0, decided=False))
    assert estimates.won
    assert estimates.predicted_cost(choice) > 0.3
    assert estimates.best == pytest.approx(estimates.predicted_cost(choice))


@pytest.mark.parametrize(("loss", "refuted"), [(0.3, True), (0.012, False), (0.005, False)])
def test_a_miss_by_ten_times_what_was_predicted_refutes_the_predictions(loss: float, refuted: bool) -> None:
    model = make_model(6, rich=False)
    _, estimates = estimates_of(model, np.full(6, 0.0003))
    choice = flags(6)
    assert estimates.predicted_loss(choice) < TARGET
    estimates.add(choice, trial(estimates.config(choice), loss))
    assert estimates.refuted is refuted


@pytest.mark.parametrize(("seconds", "found"), [(1.2, True), (5.0, False)])
def test_where_no_static_config_keeps_the_target_dynamic_ops_alone_are_tried(seconds: float, found: bool) -> None:
    """As far as their profile says that they are faster than fp32."""
    model = make_model(8, rich=False, total_loss=80.0, harmful=8)
    model = with_precisions(model, {Precision.INT8_DYNAMIC: (seconds, 1e-6)})
    searched = Run(model.problem(target=TARGET), model).go(create_strategy("auto", spare=0), 40)
    notes = [trial.note for trial in searched.evaluated]
    assert (
        "8 ops in dynamic int8 and no other" in notes or searched.best.config.precisions()[Precision.INT8_DYNAMIC] > 0
    ) is found
    assert searched.best.config.is_fp32 is not found


def test_an_op_that_is_said_to_lose_much_may_lose_it() -> None:
    model = make_model(6, rich=False)
    _, estimates = estimates_of(model, np.full(6, 0.05))
    estimates.add(flags(6), trial(estimates.config(flags(6)), 3.5))
    assert not estimates.refuted


@dataclasses.dataclass(frozen=True)
class Broken(Synthetic):
    """A model whose outputs are no use with every op in int8, whatever it loses."""

    error: float = 0.0

    def output_error(self, config: QuantizationConfig) -> float:
        preferred = config.ops == self.space.preferred.ops
        return self.error if preferred else super().output_error(config)


@pytest.mark.parametrize(
    ("error", "evaluated"), [(float("inf"), False), (0.7, False), (float("nan"), True), (0.3, True)]
)
@pytest.mark.parametrize("criterion", [Criterion(absolute=0.01), Criterion(relative=0.3)])
def test_a_first_config_whose_outputs_are_noise_is_not_evaluated_in_whatever_unit_the_loss_is(
    error: float, evaluated: bool, criterion: Criterion
) -> None:
    model = Broken(**vars(make_model(8, rich=False, total_loss=0.008)), error=error)
    problem = dataclasses.replace(model.problem(), criterion=criterion)
    run = Run(problem, model).go(Auto(spare=0), 20)
    assert run.best.met
    assert (run.evaluated[0].config == model.space.preferred) is evaluated


def _gap(seconds: float, noise: float, kind: str = "MatMul", least: float = 1e-3) -> Gap:
    return Gap(kind=kind, seconds=seconds, least=least, noise=noise)


def test_small_gaps_of_many_alike_ops_are_decided_together() -> None:
    gaps = {str(i): _gap(-6e-5, 3e-5) for i in range(37)}
    assert all(value < 0 for value in certain_gaps(gaps).values())
    # Neither three of them, nor as many whose gaps are noise, nor as many of different kinds.
    assert set(certain_gaps({key: gaps[key] for key in ("0", "1", "2")}).values()) == {0.0}
    assert not any(certain_gaps({str(i): _gap(-6e-5 * (-1) ** i, 3e-5) for i in range(36)}).values())
    assert not any(certain_gaps({str(i): _gap(-6e-5, 3e-5, kind=str(i)) for i in range(37)}).values())
    assert not any(certain_gaps({str(i): _gap(-6e-5, 5e-4) for i in range(37)}).values())


def test_a_gap_within_the_noise_of_its_profiles_is_none() -> None:
    assert certain_gaps({"a": _gap(-5e-4, 3e-4)})["a"] == 0.0
    assert certain_gaps({"a": _gap(-5e-4, 1e-5)})["a"] == pytest.approx(-5e-4 + 1.5e-4 + 2e-6)
    assert certain_gaps({"a": _gap(-1e-4, 0.0)})["a"] == 0.0


class NoisyProfile(Synthetic):
    """A profile that says of an op that fp32 is faster, and how sure it is of it."""

    noise_s = 0.0

    def op_latency_noise(self):  # type: ignore[no-untyped-def]
        return {op: dict.fromkeys(by, self.noise_s) for op, by in self.op_latency().items()}


@pytest.mark.parametrize(("noise", "returned"), [(1e-5, True), (5e-3, False)])
def test_an_op_stays_in_int8_where_the_profile_is_too_noisy_to_say_that_fp32_is_faster(
    noise: float, returned: bool
) -> None:
    base = make_model(8, total_loss=0.001, rich=False)
    slow = base.space.ops[0].name
    model = NoisyProfile(**vars(dataclasses.replace(base, seconds={**base.seconds, slow: (1e-3, 3e-3)})))
    model.__class__.noise_s = noise
    problem = model.problem()
    costs = Costs(problem, single_steps(problem, model.space.preferred), complete=True)
    assert bool(costs.fastest()[0]) is returned
    assert problem.objective is Objective.LATENCY
