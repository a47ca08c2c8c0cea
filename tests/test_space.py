from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.config import (
    FP32,
    KL,
    MINMAX,
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    TensorScheme,
    WeightOnly,
)
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, RecipeSpace, TuningSpace

U8 = TensorScheme(dtype=QuantizedType.U8)
S8 = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
PER_CHANNEL = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)

CONV = PrecisionSpace(
    precision=Precision.INT8, activations=(U8, S8), weights=(PER_CHANNEL, S8), algorithms=(MINMAX, KL)
)
ADD = PrecisionSpace(precision=Precision.INT8, activations=(U8,), algorithms=(MINMAX, KL))
SPACE = TuningSpace(
    ops=(
        OpSpace(name="conv", op_type="Conv", precisions=(CONV, FP32_SPACE)),
        OpSpace(name="add", op_type="Add", precisions=(ADD, FP32_SPACE)),
        OpSpace(name="fixed", op_type="Conv", precisions=(FP32_SPACE,)),
    ),
    recipe=RecipeSpace(reduce_range=(False, True)),
)


def test_size_counts_every_config_once() -> None:
    assert SPACE.size == (8 + 1) * (2 + 1) * 1 * 2
    configs = {
        QuantizationConfig(ops={"conv": conv, "add": add}, recipe=recipe)
        for conv in SPACE.by_name["conv"].configs()
        for add in SPACE.by_name["add"].configs()
        for recipe in SPACE.recipe.recipes()
    }
    # The space counts fp32 once for each recipe, the configs count it once.
    assert len(configs) == SPACE.size - (SPACE.recipe.size - 1)
    assert all(config in SPACE for config in configs)


def test_the_first_of_everything_is_preferred() -> None:
    assert SPACE.preferred == QuantizationConfig(
        ops={
            "conv": OpConfig(precision=Precision.INT8, activation=U8, weight=PER_CHANNEL, calibration=MINMAX),
            "add": OpConfig(precision=Precision.INT8, activation=U8, calibration=MINMAX),
        }
    )
    assert [op.name for op in SPACE.tunable] == ["conv", "add"]


def test_what_an_op_does_not_offer_lies_outside() -> None:
    assert QuantizationConfig(ops={"fixed": OpConfig(precision=Precision.INT8)}) not in SPACE
    assert QuantizationConfig(ops={"unknown": OpConfig(precision=Precision.INT8)}) not in SPACE
    weighted_add = OpConfig(precision=Precision.INT8, activation=U8, weight=S8, calibration=MINMAX)
    assert QuantizationConfig(ops={"add": weighted_add}) not in SPACE


def test_a_uniform_choice_is_taken_as_near_as_each_op_offers_it() -> None:
    wanted = OpConfig(precision=Precision.INT8, activation=S8, weight=S8, calibration=KL)
    config = SPACE.uniform(wanted)
    assert config["conv"] == wanted
    assert config["add"] == OpConfig(precision=Precision.INT8, activation=U8, calibration=KL)
    assert config["fixed"] == FP32
    assert config in SPACE


@given(st.data())
def test_every_point_of_the_distributions_decodes_to_a_config_that_encodes_to_it(data: st.DataObject) -> None:
    distributions = SPACE.distributions()
    point = {name: data.draw(st.sampled_from(d.choices)) for name, d in distributions.items()}  # type: ignore[attr-defined]  # all are categorical
    config = SPACE.decode(point)
    assert config in SPACE
    assert SPACE.decode(SPACE.encode(config)) == config


def test_distributions_hold_only_real_choices() -> None:
    assert set(SPACE.distributions()) == {
        "conv/precision",
        "conv/activations",
        "conv/weights",
        "conv/algorithms",
        "add/precision",
        "add/algorithms",
        "recipe/reduce_range",
    }


def test_a_config_from_elsewhere_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="Only a config of the space"):
        TuningSpace(ops=()).encode(SPACE.preferred)


def test_names_must_be_unique() -> None:
    op = OpSpace(name="a", op_type="Conv", precisions=(FP32_SPACE,))
    with pytest.raises(ValueError, match="name of its own"):
        TuningSpace(ops=(op, op))


def test_rounding_of_blocks_is_free_where_it_has_no_effect() -> None:
    blocks = PrecisionSpace(precision=Precision.INT4_WEIGHT)
    space = TuningSpace(
        ops=(OpSpace(name="a", op_type="MatMul", precisions=(FP32_SPACE, blocks)), SPACE.ops[0]),
        recipe=RecipeSpace(weight_only=(WeightOnly.GPTQ, WeightOnly.HQQ)),
    )
    static = space.preferred
    assert static.recipe.weight_only is WeightOnly.RTN  # which the space does not offer, and which means nothing here
    assert static in space
    assert space.decode(space.encode(static)) == static
    stored = QuantizationConfig(ops={"a": OpConfig(precision=Precision.INT4_WEIGHT)})
    assert stored not in space
    stored = QuantizationConfig(ops=stored.ops, recipe=space.recipe.preferred)
    assert stored.recipe.weight_only is WeightOnly.GPTQ
    assert space.decode(space.encode(stored)) == stored
