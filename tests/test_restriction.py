from __future__ import annotations

import dataclasses

import pytest

from autotune.config import (
    KL,
    MINMAX,
    PERCENTILE,
    CalibrationAlgorithm,
    CalibrationMethod,
    Granularity,
    Precision,
    QuantizedType,
    TensorScheme,
)
from autotune.errors import ExperimentError
from autotune.options import AdapterOption, Touches
from autotune.restriction import OpRestriction, SchemeRestriction, SpaceRestriction
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, RecipeSpace, TuningSpace

U8 = TensorScheme(dtype=QuantizedType.U8)
S8 = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
PER_TENSOR = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
PER_CHANNEL = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)
P999 = CalibrationAlgorithm(CalibrationMethod.PERCENTILE, 99.9)

INT8 = PrecisionSpace(
    precision=Precision.INT8,
    activations=(U8, S8),
    weights=(PER_CHANNEL, PER_TENSOR),
    algorithms=(MINMAX, PERCENTILE, P999, KL),
)
WEIGHTLESS = PrecisionSpace(precision=Precision.INT8, activations=(U8, S8), algorithms=(MINMAX, KL))


@pytest.fixture
def space() -> TuningSpace:
    return TuningSpace(
        ops=(
            OpSpace(name="stem/conv", op_type="Conv", precisions=(INT8, FP32_SPACE)),
            OpSpace(name="block1/conv", op_type="Conv", precisions=(INT8, FP32_SPACE)),
            OpSpace(name="block1/add", op_type="Add", precisions=(WEIGHTLESS, FP32_SPACE)),
            OpSpace(name="head", op_type="Gemm", precisions=(FP32_SPACE,)),
        ),
        recipe=RecipeSpace(reduce_range=(False, True)),
    )


def test_no_restriction_changes_nothing(space: TuningSpace) -> None:
    assert SpaceRestriction().apply(space) == space


def test_type_and_name_are_merged_field_by_field_and_the_name_comes_first(space: TuningSpace) -> None:
    restriction = SpaceRestriction(
        op_type={
            "Conv": OpRestriction(
                weight=SchemeRestriction(granularity=(Granularity.PER_TENSOR,)), algorithm=("minmax", "kl")
            )
        },
        op_name={"stem/conv": OpRestriction(algorithm=("percentile",), precision=(Precision.INT8,))},
    )
    restricted = restriction.apply(space)
    (stem,) = restricted.by_name["stem/conv"].precisions
    assert stem.weights == (PER_TENSOR,)
    assert stem.algorithms == (PERCENTILE, P999)
    block = restricted.by_name["block1/conv"].precisions
    assert block[0].algorithms == (MINMAX, KL)
    assert block[1] == FP32_SPACE
    assert restricted.by_name["block1/add"] == space.by_name["block1/add"]


def test_a_pattern_reaches_every_op_that_it_matches(space: TuningSpace) -> None:
    restricted = SpaceRestriction(op_name={"block1/*": OpRestriction(precision=(Precision.FP32,))}).apply(space)
    assert [op.precisions == (FP32_SPACE,) for op in restricted.ops] == [False, True, True, True]


def test_one_percentile_excludes_the_others(space: TuningSpace) -> None:
    restricted = SpaceRestriction(op_type={"Conv": OpRestriction(algorithm=("percentile:99.9",))}).apply(space)
    assert restricted.ops[0].precisions[0].algorithms == (P999,)


def test_a_restriction_of_weights_leaves_ops_without_weights_alone(space: TuningSpace) -> None:
    per_channel = OpRestriction(weight=SchemeRestriction(granularity=(Granularity.PER_CHANNEL,)))
    restricted = SpaceRestriction(op_name={"*": per_channel}).apply(space)
    assert restricted.by_name["block1/add"] == space.by_name["block1/add"]
    assert restricted.by_name["stem/conv"].precisions[0].weights == (PER_CHANNEL,)


def test_a_pattern_skips_ops_that_cannot_compute_so_but_a_name_must_fit(space: TuningSpace) -> None:
    int8 = OpRestriction(precision=(Precision.INT8,))
    restricted = SpaceRestriction(op_name={"*": int8}).apply(space)
    assert restricted.by_name["head"].precisions == (FP32_SPACE,)
    assert restricted.by_name["stem/conv"].precisions == (INT8,)
    with pytest.raises(ExperimentError, match=r"'head' \(Gemm\) can compute in fp32, but `precision` allows int8"):
        SpaceRestriction(op_name={"head": int8}).apply(space)


def test_the_recipe_is_restricted(space: TuningSpace) -> None:
    assert SpaceRestriction(recipe={"reduce_range": (True,)}).apply(space).recipe.reduce_range == (True,)
    narrow = TuningSpace(ops=space.ops)
    with pytest.raises(ExperimentError, match=r"recipes.reduce_range.*\(False\), but it allows True"):
        SpaceRestriction(recipe={"reduce_range": (True,)}).apply(narrow)


@pytest.mark.parametrize(
    ("restriction", "message"),
    [
        (
            SpaceRestriction(op_type={"conv": OpRestriction()}),
            r"no 'conv' \(did you mean 'Conv'\?\). It has: Conv, Add",
        ),
        (
            SpaceRestriction(op_name={"block1/conw": OpRestriction()}),
            r"'block1/conw' matches none \(did you mean 'block1/conv'\?\)",
        ),
        (SpaceRestriction(op_name={"block9/*": OpRestriction()}), r"'block9/\*' matches none"),
        (
            SpaceRestriction(op_type={"Conv": OpRestriction(algorithm=("mse",))}),
            r"'stem/conv' \(Conv\) in int8 offers the algorithms minmax, percentile:99.99, .*allows: algorithm mse",
        ),
        (
            SpaceRestriction(op_type={"Conv": OpRestriction(weight=SchemeRestriction(dtype=(QuantizedType.U8,)))}),
            "offers the weights s8 symmetric per_channel.*allows: dtype u8",
        ),
    ],
)
def test_what_matches_nothing_is_an_error(space: TuningSpace, restriction: SpaceRestriction, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        restriction.apply(space)


def test_preference_order_is_kept(space: TuningSpace) -> None:
    restricted = SpaceRestriction(op_type={"Conv": OpRestriction(algorithm=("kl", "minmax"))}).apply(space)
    assert restricted.ops[0].precisions[0].algorithms == (MINMAX, KL)
    assert restricted.preferred == space.preferred


def test_excluded_precision_is_there_for_those_that_ask() -> None:
    dynamic = PrecisionSpace(precision=Precision.INT8_DYNAMIC)
    ops = tuple(OpSpace(name=name, op_type="MatMul", precisions=(dynamic, FP32_SPACE)) for name in ("a", "b"))
    wanted = OpRestriction(precision=(Precision.INT8_DYNAMIC,))
    restriction = SpaceRestriction(op_name={"b": wanted}, excluded=frozenset({Precision.INT8_DYNAMIC}))
    space = restriction.apply(TuningSpace(ops=ops))
    assert space.by_name["a"].precisions == (FP32_SPACE,)
    assert space.by_name["b"].precisions == (dynamic,)


def test_each_of_several_spaces_takes_the_part_that_is_about_it(space: TuningSpace) -> None:
    other = TuningSpace(ops=(OpSpace(name="Conv_7", op_type="Convolution", precisions=(INT8, FP32_SPACE)),))
    fp32 = OpRestriction(precision=(Precision.FP32,))
    restriction = SpaceRestriction(
        op_type={"Conv": fp32, "Convolution": fp32},
        op_name={"block1/*": fp32, "*onv*": fp32, "Conv_7": fp32},
        recipe={"style": ("new",), "reduce_range": (False,)},
    )
    style = AdapterOption(
        name="style", values=("new", "old"), default="old", touches=Touches.VALUES, description="How it is written."
    )
    space = dataclasses.replace(space, recipe=dataclasses.replace(space.recipe, options=(style,)))
    one, two = restriction.among([space, other])
    assert (list(one.op_type), list(one.op_name), list(one.recipe)) == (
        ["Conv"],
        ["block1/*", "*onv*"],
        ["style", "reduce_range"],
    )
    assert (list(two.op_type), list(two.op_name), list(two.recipe)) == (
        ["Convolution"],
        ["*onv*", "Conv_7"],
        ["reduce_range"],
    )
    one.apply(space)
    two.apply(other)
    assert restriction.among([]) == []


def test_what_is_in_none_of_several_spaces_is_an_error_in_each(space: TuningSpace) -> None:
    for part in SpaceRestriction(op_name={"nowhere": OpRestriction()}).among([space, space]):
        with pytest.raises(ExperimentError, match="'nowhere' matches none"):
            part.apply(space)
