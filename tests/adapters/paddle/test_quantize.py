"""Candidates compute exactly the ops of their config in int8, with the scales that were chosen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.candidate import Candidate
from autotune.adapters.paddle.ops import quantizable_ops
from autotune.adapters.paddle.tensors import Tensors
from autotune.config import MINMAX, BiasCorrection, OpConfig, Precision, QuantizationConfig, Recipe, WeightRounding
from autotune.errors import ApplyError
from tests.adapters.paddle.calibrated import ADAPTER, calibrated, candidate, choices, kernels, outputs, sqnr_db

NETWORKS = ("Residual", "Mobile", "Shortcut", "Pooled")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("part", ["all", "odd", "even", "first", "last"])
def test_the_ops_of_a_config_and_no_others_multiply_integers(name: str, part: str) -> None:
    model, _ = calibrated(name)
    ops = sorted(choices(model))
    chosen = {"all": ops, "odd": ops[::2], "even": ops[1::2], "first": ops[:1], "last": ops[-1:]}[part]
    made = candidate(name, chosen)
    assert sorted(op for op, kernel in kernels(made).items() if kernel.integers) == chosen
    assert isinstance(made, Candidate)
    assert made.stayed_fp32 == made.uncalled == ()
    assert sqnr_db(outputs(model), outputs(made)) > 30.0


@pytest.mark.parametrize("name", NETWORKS)
def test_a_tensor_is_read_in_the_type_that_its_scale_was_made_for(name: str) -> None:
    model, _ = calibrated(name)
    tensors = Tensors(model.program, model.constants)
    ran = kernels(candidate(name))
    for op in quantizable_ops(model.program, model.constants, model.names):
        if op.name in choices(model):
            expected = "u8" if tensors.unsigned(op.source) else "s8"
            assert ran[op.name].reads == expected, op.name


def test_a_config_without_ops_changes_nothing() -> None:
    model, statistics = calibrated("Residual")
    same = ADAPTER.apply(model, QuantizationConfig(), statistics)
    np.testing.assert_array_equal(outputs(same), outputs(model))


@pytest.mark.parametrize("name", NETWORKS)
def test_smaller_ranges_cut_off_what_is_larger(name: str) -> None:
    model, statistics = calibrated(name)
    config = QuantizationConfig(ops=choices(model))
    halved = {
        key: dataclasses.replace(each, minimum=each.minimum / 4, maximum=each.maximum / 4)
        for key, each in statistics.tensors.items()
    }
    narrow = dataclasses.replace(statistics, tensors=halved)
    choice = {op: dataclasses.replace(each, calibration=MINMAX) for op, each in config.ops.items()}
    config = QuantizationConfig(ops=choice)
    right, wrong = (ADAPTER.apply(model, config, each) for each in (statistics, narrow))
    reference = outputs(model)
    assert sqnr_db(reference, outputs(wrong)) < 12.0 < sqnr_db(reference, outputs(right))


def test_a_sum_of_negative_values_is_not_cut_at_zero() -> None:
    """Paddle writes a fused sum as u8 where what is added is, whatever the sum holds."""
    model, statistics = calibrated("Mobile")
    clipped = [op.name for op in ADAPTER.space(model).ops if op.name not in choices(model)]
    assert len(clipped) == 1
    config = QuantizationConfig(ops=dict.fromkeys(clipped, next(iter(choices(model).values()))))
    with pytest.raises(ApplyError, match="cuts the sum at zero"):
        ADAPTER.apply(model, config, statistics)
    _, notes = ADAPTER.calibrated_space(ADAPTER.space(model), model, statistics)
    assert any(clipped[0] in note for note in notes)


def test_a_fused_sum_uses_the_whole_of_its_range() -> None:
    """Where s8 is added, Paddle writes u8 scales as s8: without a narrower scale the upper half would be cut off."""
    model, _ = calibrated("Shortcut")
    made = candidate("Shortcut")
    residuals = map(
        Tensors(model.program, model.constants).residual,
        quantizable_ops(model.program, model.constants, model.names),
    )
    assert any(each is not None and each.narrow for each in residuals)
    assert sqnr_db(outputs(model), outputs(made)) > 30.0


def test_integers_are_as_they_are_stored() -> None:
    """Paddle chooses scales of weights anew: each channel must hold 127 for its integers to come out as they were."""
    made = candidate("Residual", recipe=Recipe(weight_rounding=WeightRounding.GPTQ, equalization=True))
    weights = [array for name, array in made.constants.items() if name.endswith("/integers") and array.ndim == 4]
    assert len(weights) == 3
    for integers in weights:
        assert (np.abs(integers.astype(int)).reshape(len(integers), -1).max(axis=1) == 127).all()


def test_reduced_ranges_leave_a_bit_unused_and_cannot_saturate() -> None:
    full, reduced = candidate("Residual"), candidate("Residual", recipe=Recipe(reduce_range=True))
    assert ADAPTER.saturating_ops(full)
    assert not ADAPTER.saturating_ops(reduced)
    ratios = [
        float(reduced.constants[name][0] / full.constants[name][0])
        for name in full.constants
        if name.endswith("/scale") and full.constants[name].size == 1
    ]
    assert sorted(round(ratio, 3) for ratio in ratios) == [1.0, *[2.008] * (len(ratios) - 1)]
    model, _ = calibrated("Residual")
    assert sqnr_db(outputs(model), outputs(reduced)) > 30.0


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rounding", [WeightRounding.NEAREST, WeightRounding.GPTQ])
def test_bounded_pairs_cannot_saturate_and_take_no_more_than_they_need(name: str, rounding: WeightRounding) -> None:
    model, _ = calibrated(name)
    bounded = candidate(name, recipe=Recipe(bound_pairs=True, weight_rounding=rounding))
    reduced = candidate(name, recipe=Recipe(reduce_range=True, weight_rounding=rounding))
    assert not ADAPTER.saturating_ops(bounded)
    for key in (each for each in bounded.constants if each.endswith("/scale") and bounded.constants[each].size == 1):
        assert bounded.constants[key][0] <= reduced.constants[key][0]
    assert sqnr_db(outputs(model), outputs(bounded)) > 30.0


def test_a_saved_candidate_still_says_that_it_cannot_saturate(tmp_path: Path) -> None:
    for recipe, risk in ((Recipe(), True), (Recipe(bound_pairs=True), False), (Recipe(reduce_range=True), False)):
        path, _ = ADAPTER.save(candidate("Residual", recipe=recipe), tmp_path / "saved.pdmodel", {})
        assert bool(ADAPTER.saturating_ops(ADAPTER.load(path))) is risk


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(equalization=True),
        Recipe(bias_correction=BiasCorrection.FAST),
        Recipe(bias_correction=BiasCorrection.FULL),
        Recipe(weight_rounding=WeightRounding.GPTQ),
    ],
    ids=["equalization", "fast", "full", "gptq"],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_recipes_change_constants_and_stay_near(name: str, recipe: Recipe) -> None:
    model, _ = calibrated(name)
    plain, made = candidate(name), candidate(name, recipe=recipe)
    served = not recipe.equalization or name in ("Mobile", "Shortcut")  # elsewhere no convolution reads another's
    assert (plain.fingerprint != made.fingerprint) is served
    assert sqnr_db(outputs(model), outputs(made)) > 25.0


def test_what_paddle_would_quantize_by_itself_is_marked() -> None:
    made = candidate("Pooled", ["conv2d_0"])
    marked = {op.type for op in programs.ops(made.program) if programs.attribute(op, "skip_quant", 0) == 1}
    assert {"pool2d", "concat", "matmul_v2"} <= marked


def test_other_precisions_are_refused() -> None:
    model, statistics = calibrated("Residual")
    op = next(iter(choices(model)))
    with pytest.raises(ApplyError, match="int8 or fp32"):
        ADAPTER.apply(model, QuantizationConfig(ops={op: OpConfig(precision=Precision.BF16)}), statistics)
