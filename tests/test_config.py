from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.config import (
    FP32,
    KL,
    LEAST_ERROR,
    MINMAX,
    MSE,
    PERCENTILE,
    CalibrationAlgorithm,
    CalibrationMethod,
    Granularity,
    OpConfig,
    PerAxis,
    PerGroup,
    PerTensor,
    Precision,
    QuantizationConfig,
    QuantizedType,
    Recipe,
    TensorScheme,
    WeightOnly,
    WeightRounding,
)
from autotune.recipe_space import RecipeSpace

schemes = st.builds(
    TensorScheme,
    dtype=st.sampled_from(QuantizedType),
    symmetric=st.booleans(),
    granularity=st.sampled_from((*Granularity.PLAIN, PerGroup(32))),
)
ops = st.just(FP32) | st.builds(
    OpConfig,
    precision=st.just(Precision.INT8),
    activation=schemes,
    weight=st.none() | schemes,
    calibration=st.sampled_from([MINMAX, PERCENTILE, KL, MSE, LEAST_ERROR]),
)
configs = st.builds(
    QuantizationConfig,
    ops=st.dictionaries(st.text(min_size=1, max_size=8), ops, max_size=6),
    recipe=st.builds(Recipe, reduce_range=st.booleans(), bound_pairs=st.booleans()),
)


@given(configs)
def test_json_round_trip(config: QuantizationConfig) -> None:
    read = QuantizationConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert read == config
    assert read.fingerprint == config.fingerprint
    assert hash(read) == hash(config)


@given(configs)
def test_the_fingerprint_is_a_hash_of_canonical_json(config: QuantizationConfig) -> None:
    text = json.dumps(config.to_json(), sort_keys=True, separators=(",", ":"))
    assert config.fingerprint == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_equal_choices_of_a_history_are_one_object() -> None:
    data = {"names": ["a"], "precision": "int8", "weight": "s8 symmetric per_channel"}
    one, other = (QuantizationConfig.from_json({"ops": [dict(data)]}) for _ in range(2))
    assert one["a"] is other["a"]


def test_a_recipe_that_was_altered_is_not_taken_for_one_that_was_not() -> None:
    altered, sound = Recipe.from_json({"reduce_range": 1}), Recipe.from_json({"reduce_range": True})
    assert altered.to_json() == {"reduce_range": 1}
    assert sound.to_json()["reduce_range"] is True


@given(configs, configs)
def test_configs_differ_exactly_where_diff_says_so(one: QuantizationConfig, other: QuantizationConfig) -> None:
    assert (one.diff(other) == "") == (one == other) == (one.fingerprint == other.fingerprint)


def test_the_fingerprint_is_the_same_on_every_host_and_in_every_version() -> None:
    # Stored histories hold it: a change of this value orphans them.
    config = QuantizationConfig(
        ops={"conv": OpConfig(precision=Precision.INT8, calibration=PERCENTILE)}, recipe=Recipe(reduce_range=True)
    )
    assert config.fingerprint == "a5297fcbd1697491"


def test_an_fp32_entry_is_no_entry() -> None:
    assert QuantizationConfig(ops={"a": FP32}) == QuantizationConfig()
    assert QuantizationConfig(ops={"a": FP32}).is_fp32
    assert QuantizationConfig()["anything"] == FP32


def test_the_order_of_ops_does_not_count() -> None:
    int8 = OpConfig(precision=Precision.INT8)
    one = QuantizationConfig(ops={"a": int8, "b": int8})
    assert one == QuantizationConfig(ops={"b": int8, "a": int8})
    assert one.to_json() == QuantizationConfig(ops={"b": int8, "a": int8}).to_json()


def test_diff_names_the_op_and_both_choices() -> None:
    u8 = TensorScheme(dtype=QuantizedType.U8)
    before = QuantizationConfig(ops={"conv": OpConfig(precision=Precision.INT8, activation=u8, calibration=KL)})
    after = QuantizationConfig(ops={"head": OpConfig(precision=Precision.INT8)}, recipe=Recipe(reduce_range=True))
    assert before.diff(after).splitlines() == [
        "conv: int8, activation u8 asymmetric per_tensor, kl -> fp32",
        "head: fp32 -> int8",
        "recipe.reduce_range: False -> True",
    ]


def test_a_recipe_without_a_quantized_op_is_no_recipe() -> None:
    assert QuantizationConfig(recipe=Recipe(reduce_range=True)) == QuantizationConfig()


def test_rounding_of_blocks_belongs_to_ops_that_have_them() -> None:
    recipe = Recipe(weight_only=WeightOnly.GPTQ)
    static = QuantizationConfig(ops={"a": OpConfig(precision=Precision.INT8)}, recipe=recipe)
    assert static == QuantizationConfig(ops={"a": OpConfig(precision=Precision.INT8)})
    blocks = QuantizationConfig(ops={"a": OpConfig(precision=Precision.INT4_WEIGHT)}, recipe=recipe)
    assert blocks.recipe == recipe
    assert QuantizationConfig.from_json(blocks.to_json()) == blocks
    assert RecipeSpace().quick(blocks.recipe) == Recipe()


def test_what_uses_no_later_field_keeps_its_fingerprint() -> None:
    """Histories of earlier versions are read by it."""
    config = QuantizationConfig(ops={"a": OpConfig(precision=Precision.INT4_WEIGHT)}, recipe=Recipe(reduce_range=True))
    assert config.to_json() == {
        "ops": [{"names": ["a"], "precision": "int4_weight"}],
        "recipe": {"reduce_range": True},
    }


@pytest.mark.parametrize("text", ["percentile", "minmax:99.9", "percentile:40", "entropie"])
def test_a_calibration_algorithm_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"percentile|entropie"):
        CalibrationAlgorithm.parse(text)


def test_calibration_algorithms_read_what_they_write() -> None:
    for algorithm in (MINMAX, KL, MSE, LEAST_ERROR, CalibrationAlgorithm(CalibrationMethod.PERCENTILE, 99.999)):
        assert CalibrationAlgorithm.parse(str(algorithm)) == algorithm


@pytest.mark.parametrize("text", ["u8", "u8 lopsided per_tensor", "u9 symmetric per_tensor", "u8 symmetric per_row"])
def test_a_tensor_scheme_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"u8|u9|per_row"):
        TensorScheme.parse(text)


def test_gptq_is_stored_under_the_name_that_earlier_versions_gave_it() -> None:
    recipe = Recipe.from_json({"weight_rounding": "gptq"})
    assert (
        recipe == Recipe.from_json({"weight_rounding": "error_feedback"}) == Recipe(weight_rounding=WeightRounding.GPTQ)
    )
    assert recipe.to_json() == {"weight_rounding": "error_feedback"}
    # A hash of the space's `repr` is what a workspace is resumed by.
    assert repr(tuple(WeightRounding)) == (
        "(<WeightRounding.NEAREST: 'nearest'>, <WeightRounding.ERROR_FEEDBACK: 'error_feedback'>)"
    )
    with pytest.raises(ValueError, match="'feedback' is not a valid WeightRounding"):
        Recipe.from_json({"weight_rounding": "feedback"})


@pytest.mark.parametrize(
    ("text", "granularity"), [("per_tensor", PerTensor()), ("per_channel", PerAxis()), ("per_group:32", PerGroup(32))]
)
def test_a_granularity_reads_what_it_writes(text: str, granularity: Granularity) -> None:
    assert str(granularity) == text
    assert Granularity.parse(text) == granularity
    assert pickle.loads(pickle.dumps(granularity)) == granularity
    scheme = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=granularity)
    assert TensorScheme.parse(f"s8 symmetric {text}") == scheme


def test_what_needs_no_size_is_one_object_everywhere() -> None:
    for granularity in Granularity.PLAIN:
        assert Granularity.parse(str(granularity)) is granularity
        assert pickle.loads(pickle.dumps(granularity)) is granularity


@pytest.mark.parametrize("text", ["per_row", "per_group", "per_group:", "per_group:0", "per_group:-1", "per_axis"])
def test_a_granularity_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"per_group|size >= 1"):
        Granularity.parse(text)


def test_a_config_without_a_runtime_is_stored_as_it_always_was() -> None:
    config = QuantizationConfig(ops={"a": OpConfig(precision=Precision.INT8_DYNAMIC)})
    assert config.to_json() == {"ops": [{"names": ["a"], "precision": "int8_dynamic"}]}
    assert config.fingerprint == "5a710d1e59ec8794"
    assert QuantizationConfig.from_json(config.to_json()).runtime is None


def test_the_runtime_is_part_of_a_config_but_of_the_users_own_model() -> None:
    config = QuantizationConfig(ops={"a": OpConfig(precision=Precision.INT8_DYNAMIC)}, runtime="one")
    other = dataclasses.replace(config, runtime="other")
    assert QuantizationConfig.from_json(config.to_json()) == config != other
    assert config.diff(other) == "runtime: one -> other"
    assert QuantizationConfig(prepared=True, runtime="one").runtime == "one"
    # fp32 is measured on the runtime of the baseline alone.
    assert QuantizationConfig(runtime="one") == QuantizationConfig()


def test_a_config_is_short_to_look_at() -> None:
    int8 = OpConfig(precision=Precision.INT8)
    config = QuantizationConfig(ops={f"op {index}": int8 for index in range(1000)})
    assert repr(config) == f"<QuantizationConfig {config.fingerprint}: 1000 int8>"
    assert repr(QuantizationConfig()).endswith(": fp32>")
