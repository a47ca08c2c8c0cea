"""How losses follow from output errors, and what the search makes of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autotune.config import QuantizationConfig
from autotune.criterion import Criterion
from autotune.strategies import create_strategy
from autotune.strategies.auto.loss_law import LossLaw, is_perfect, likelier
from autotune.testing.driver import Run
from autotune.testing.synthetic import Synthetic, make_model
from autotune.trial import Measurement, Trial, TrialState

TARGET = 0.01
ROOT, PROPORTIONAL = LossLaw(target=TARGET, root=True), LossLaw(target=TARGET)


def self_compared(seed: int, ops: int = 40) -> Synthetic:
    """A model that is compared with its own answers; in int8 throughout it loses about nine times the target."""
    model = make_model(ops, seed=seed, total_loss=0.03, rich=False, harmful=8)
    return dataclasses.replace(model, root=0.5, error_scale=1.0)


@pytest.mark.parametrize("law", [ROOT, PROPORTIONAL], ids=["root", "proportional"])
def test_additive_losses_turn_back_into_losses(law: LossLaw) -> None:
    for loss in (-0.004, 0.0, 0.002, TARGET, 0.3):
        back = law.losses(np.array([law.additive(loss)]))
        assert back[0] == pytest.approx(loss)
    assert law.additive(TARGET) == pytest.approx(TARGET)
    assert law.losses(np.array([law.scale * 0.01]))[0] == pytest.approx(law.predicted(0.01))
    near = (law.additive(0.0101) - law.additive(0.0099)) / 2
    assert law.noise(0.01, 1e-4) == pytest.approx(near, rel=1e-3)
    # A loss of nothing is not known for certain either.
    assert law.noise(0.0, 1e-3) > 0


def test_additive_losses_of_the_root_law_add_up_where_noises_do() -> None:
    parts = [ROOT.additive(0.5 * error**0.5) for error in (1e-4, 3e-4)]
    assert sum(parts) == pytest.approx(ROOT.additive(0.5 * 4e-4**0.5))


def test_measured_losses_tell_the_laws_apart() -> None:
    errors = [0.03, 0.01, 0.001]
    assert likelier(TARGET, [], []).root
    assert likelier(TARGET, errors, [0.5 * error**0.5 for error in errors]).root
    # In another model every decision is closer to the threshold.
    assert likelier(TARGET, errors, [1.5 * error**0.5 for error in errors]).root
    # A cosine between outputs is 1 for fp32 as well.
    assert not likelier(TARGET, errors, [0.5 * error for error in errors]).root
    assert not likelier(TARGET, [0.003], [0.0015]).root


@pytest.mark.parametrize(
    ("accuracy", "criterion", "perfect"),
    [
        (1.0, Criterion(relative=0.01), True),
        (0.98, Criterion(relative=0.01), False),
        (0.0, Criterion(absolute=0.5, higher_is_better=False), True),
        (1.0, Criterion(absolute=0.5, higher_is_better=False), False),
        (None, Criterion(relative=0.01), False),
    ],
)
def test_fp32_is_perfect_where_its_score_cannot_be_better(
    accuracy: float | None, criterion: Criterion, perfect: bool
) -> None:
    measured = Measurement(accuracy=accuracy, loss=0.0, speedup=1.0)
    baseline = Trial(number=0, config=QuantizationConfig(), state=TrialState.COMPLETED, measurement=measured)
    assert is_perfect(baseline, criterion) is perfect


def least_cost(model: Synthetic) -> float:
    """A bound that no config that keeps the target costs less than: the least cost if ops could be quantized in
    part."""
    budget = (TARGET / (model.root or 1.0)) ** 2
    alone = {op: model.loss_of_op(op, model.space.preferred[op]) for op in model.loss}
    seconds = model.baseline_s
    for op in sorted(alone, key=lambda op: alone[op] / (model.seconds[op][0] - model.seconds[op][1])):
        share = min(1.0, budget / alone[op])
        budget -= share * alone[op]
        seconds -= share * (model.seconds[op][0] - model.seconds[op][1])
    return seconds / model.baseline_s


@pytest.mark.parametrize("seed", range(5))
def test_a_model_that_is_compared_with_itself_is_tuned_in_a_few_evaluations(seed: int) -> None:
    model = self_compared(seed)
    run = Run(model.problem(target=TARGET), model).go(create_strategy("auto", spare=0), 8)
    assert model.true_loss(run.best.config) <= TARGET
    assert run.cost(run.best) <= 1.04 * least_cost(model)
    first = next(index for index, trial in enumerate(run.evaluated, start=1) if trial.met)
    assert first <= 3
