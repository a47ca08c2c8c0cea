"""Behaviour of ``auto`` where its predictions are useless."""

from __future__ import annotations

import dataclasses
import math

import pytest

from autotune.config import FP32
from autotune.strategies import create_strategy
from autotune.testing.driver import Run
from autotune.testing.synthetic import Synthetic, make_model
from autotune.trial import Trial


def misled(ops: int, seed: int, *, share: float, scores: int = 2) -> Synthetic:
    """A model that loses everything by a few ops of whose harm output errors show only a share."""
    model = make_model(ops, seed=seed, total_loss=0.004, rich=False, harmful=0)
    harmful = [op.name for op in model.space.ops[-scores:]]
    return dataclasses.replace(
        model,
        loss={**model.loss, **dict.fromkeys(harmful, 0.5)},
        unseen=dict.fromkeys(harmful, share),
        error_scale=1.0,
    )


def run(model: Synthetic, budget: int = 60) -> Run:
    return Run(model.problem(), model).go(create_strategy("auto", spare=0), budget)


def fallen(trial: Trial, model: Synthetic) -> set[str]:
    return {op.name for op in model.space.ops if trial.config[op.name] == FP32}


@pytest.mark.parametrize("ops", [12, 60, 200])
@pytest.mark.parametrize("share", [0.01, 0.001])
def test_a_prediction_wrong_by_a_factor_of_a_hundred_is_distrusted_and_the_search_goes_on(
    ops: int, share: float
) -> None:
    for seed in range(3):
        model = misled(ops, seed, share=share)
        searched = run(model)
        assert searched.best.met
        assert not searched.best.config.is_fp32
        first = next(i for i, trial in enumerate(searched.evaluated, start=1) if trial.met)
        assert first <= 3 + math.log2(ops)
        # Far from all ops are quantized again.
        assert searched.cost(searched.best) < 0.5 * (1 + cost_of_optimum(model))


def cost_of_optimum(model: Synthetic) -> float:
    """The cost with nothing but the harmful ops in fp32."""
    config = model.space.preferred.replace(dict.fromkeys(model.unseen, FP32))
    return model.seconds_of(config) / model.baseline_s


def test_a_ranking_that_is_upside_down_costs_a_logarithm_per_harmful_op() -> None:
    model = misled(64, 0, share=1e-9, scores=1)
    searched = run(model)
    assert searched.best.met
    assert fallen(searched.best, model) >= set(model.unseen)
    assert len(searched.evaluated) <= 2 + 3 * (1 + math.log2(64)) + 7


def test_bisection_ends_where_no_op_alone_is_to_blame() -> None:
    model = make_model(16, rich=False, total_loss=50.0, harmful=16)
    searched = run(model)
    assert searched.best.config.is_fp32
    assert searched.reason is not None
    assert "bisection found no faster config" in searched.reason
    assert len(searched.evaluated) <= 2 + math.log2(16)


def test_nothing_slower_than_fp32_is_bisected() -> None:
    model = misled(12, 0, share=0.001)
    model = dataclasses.replace(model, seconds={op: (s, 1.5 * s) for op, (s, _) in model.seconds.items()})
    assert len(run(model).evaluated) <= 2
