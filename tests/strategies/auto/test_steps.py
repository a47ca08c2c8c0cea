"""The steps of an op from its fastest precision to fp32."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autotune.config import FP32, OpConfig, Precision
from autotune.strategies import create_strategy
from autotune.strategies.auto.cost_model import Costs
from autotune.strategies.auto.steps import (
    Step,
    config_of,
    fastest_config,
    in_order,
    is_faster,
    ladder,
    single_steps,
    steps_of,
)
from autotune.testing.driver import Run
from autotune.testing.synthetic import make_model, with_precisions

INT8, DYNAMIC, INT4 = (OpConfig(precision=p) for p in (Precision.INT8, Precision.INT8_DYNAMIC, Precision.INT4_WEIGHT))


def _seconds(fp32: float, int8: float, dynamic: float, int4: float) -> dict[Precision, float]:
    return {
        Precision.FP32: fp32,
        Precision.INT8: int8,
        Precision.INT8_DYNAMIC: dynamic,
        Precision.INT4_WEIGHT: int4,
    }


def test_what_lies_on_the_hull_of_time_and_error_is_a_rung() -> None:
    rungs = ladder(INT8, {DYNAMIC: 0.1, INT4: 0.9}, 1.0, _seconds(1.0, 0.4, 0.5, 0.6))
    # int4 takes longer than dynamic int8 and loses more.
    assert [choice for choice, _ in rungs] == [INT8, DYNAMIC, FP32]
    assert [error for _, error in rungs] == [1.0, 0.1, 0.0]


def test_a_bargain_worse_than_going_to_fp32_is_no_rung() -> None:
    assert [c for c, _ in ladder(INT8, {DYNAMIC: 0.9}, 1.0, _seconds(1.0, 0.4, 0.8, 0.6))] == [INT8, FP32]


def test_an_op_without_a_profile_has_one_step() -> None:
    assert [c for c, _ in ladder(INT8, {DYNAMIC: 0.1}, 1.0, {})] == [INT8, FP32]


def test_an_op_that_is_slower_than_fp32_has_one_step() -> None:
    assert [c for c, _ in ladder(INT8, {DYNAMIC: 0.1}, 1.0, _seconds(0.3, 0.4, 0.5, 0.6))] == [INT8, FP32]


def test_steps_take_the_error_away_bit_by_bit_and_need_each_other() -> None:
    steps = steps_of("a", [(INT8, 1.0), (DYNAMIC, 0.1), (FP32, 0.0)], 2.0, position=3)
    assert [step.error for step in steps] == pytest.approx([0.9, 0.1])
    assert [step.opening_error for step in steps] == pytest.approx([1.8, 0.2])
    assert [step.needs for step in steps] == [None, 3]


def test_no_step_without_the_one_before_it() -> None:
    steps = [Step(op="a", before=INT8, after=DYNAMIC), Step(op="a", before=DYNAMIC, after=FP32, needs=0)]
    choices = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=bool)
    assert in_order(steps, choices).tolist() == [True, True, False, True]
    template = make_model(1, rich=False).space.preferred.replace({"a": INT8})
    assert [config_of(template, steps, choice)["a"] for choice in choices[[0, 1, 3]]] == [INT8, DYNAMIC, FP32]


def test_fastest_is_what_the_profile_says_by_more_than_its_noise() -> None:
    model = with_precisions(make_model(6), {Precision.INT8_DYNAMIC: (0.97, 1.0), Precision.INT4_WEIGHT: (0.4, 1.0)})
    problem = model.problem()
    assert set(fastest_config(problem).precisions()) == {Precision.INT4_WEIGHT}
    close = with_precisions(make_model(6), {Precision.INT8_DYNAMIC: (0.97, 1.0)})
    assert fastest_config(close.problem()) == close.space.preferred
    assert not is_faster(0.9, 1.0)
    assert not is_faster(1e-6, 2.5e-6)


def test_ops_that_never_take_integers_share_the_cost_of_conversions_for_certain() -> None:
    model = with_precisions(make_model(3, rich=False), {Precision.INT8_DYNAMIC: (0.3, 1.0)})
    model = dataclasses.replace(model, crossing_s=1e-4)
    problem = model.problem()
    first, middle, last = (op.name for op in model.space.ops)
    config = model.space.preferred.replace({middle: OpConfig(precision=Precision.INT8_DYNAMIC)})
    costs = Costs(problem, single_steps(problem, config), complete=True)
    alone = Costs(problem, single_steps(problem, model.space.preferred), complete=True)
    # The first op's integers are converted for the dynamic op whatever the third does, and the dynamic op's never.
    unit = sum(by[Precision.FP32] for by in model.op_latency().values())
    assert costs.gain[0] == pytest.approx(alone.gain[0] - model.crossing_s / unit)
    assert not len(costs.conversions.costs)
    assert len(alone.conversions.costs) == 2
    assert last != first


@pytest.mark.parametrize("seed", range(4))
def test_auto_takes_the_fastest_precision_of_each_op(seed: int) -> None:
    plain = make_model(8, seed=seed, total_loss=0.001)
    model = with_precisions(plain, {Precision.INT8_WEIGHT: (0.5, 1.0)})
    run = Run(model.problem(), model).go(create_strategy("auto"), 20)
    assert run.evaluated[0].config.precisions() == {Precision.INT8_WEIGHT: 8}
    assert run.best == run.evaluated[0]


@pytest.mark.parametrize("seed", range(6))
def test_auto_mixes_precisions_where_that_is_the_better_bargain(seed: int) -> None:
    plain = make_model(8, seed=seed, total_loss=0.06)
    model = with_precisions(plain, {Precision.INT8_DYNAMIC: (1.15, 0.05)})
    mixed, alone = (Run(each.problem(), each).go(create_strategy("auto"), 20) for each in (model, plain))
    assert mixed.best.met
    assert set(mixed.best.config.precisions()) == {Precision.INT8, Precision.INT8_DYNAMIC}
    assert mixed.cost(mixed.best) < 0.98 * alone.cost(alone.best)
    assert "int8_dynamic" in mixed.best.note
