from __future__ import annotations

import pytest

from autotune.config import FP32, KL, MINMAX, OpConfig, Precision, QuantizationConfig, Recipe
from autotune.mapping import Ops, map_config
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, RecipeSpace, TuningSpace
from tests.numpy_adapter import S8_CHANNELS, STATIC, U8

INT8 = OpConfig(precision=Precision.INT8, activation=U8, weight=S8_CHANNELS, calibration=MINMAX)
OTHER = OpConfig(precision=Precision.INT8, activation=U8, weight=S8_CHANNELS, calibration=KL)


def space(names: dict[str, str], **recipe: tuple[bool, ...]) -> TuningSpace:
    ops = tuple(OpSpace(name=name, op_type=kind, precisions=(STATIC, FP32_SPACE)) for name, kind in names.items())
    return TuningSpace(ops=ops, recipe=RecipeSpace(**recipe))  # type: ignore[arg-type]


def types(*names: str, kind: str = "Conv") -> dict[str, str]:
    return dict.fromkeys(names, kind)


def test_equal_names_keep_their_choices() -> None:
    names = {**types("a", "b"), **types("c", kind="Gemm")}
    config = QuantizationConfig(ops={"a": INT8, "c": OTHER})
    for known in (Ops(types=names), None):
        found = map_config(config, known, space(names), Ops(types=names))
        assert (found.config, found.notes) == (config, [])


def test_a_name_of_another_type_is_another_op() -> None:
    found = map_config(
        QuantizationConfig(ops={"a": INT8}),
        Ops(types=types("a")),
        space(types("a", kind="Gemm")),
        Ops(types=types("a", kind="Gemm")),
    )
    assert found.config.is_fp32
    assert (found.lost, found.unmapped) == (("a",), ("a",))


def test_names_with_a_prefix_are_the_same_ops() -> None:
    old, new = types("enc/0/q", "enc/0/k", "enc/1/q"), types("model/enc/0/q", "model/enc/0/k", "model/enc/1/q")
    config = QuantizationConfig(ops={"enc/0/q": INT8, "enc/1/q": OTHER})
    expected = QuantizationConfig(ops={"model/enc/0/q": INT8, "model/enc/1/q": OTHER})
    for known in (Ops(types=old), None):
        assert map_config(config, known, space(new), Ops(types=new)).config == expected
    back = map_config(expected, Ops(types=new), space(old), Ops(types=old))
    assert back.config == config
    assert back.renamed == 3


def test_other_names_are_mapped_in_the_order_of_the_graph() -> None:
    kinds = ["Conv", "Conv", "Gemm", "Conv", "Gemm"]
    old = {f"node_{index}": kind for index, kind in enumerate(kinds)}
    new = {f"features.{name}": kind for name, kind in zip("vwxyz", kinds, strict=True)}
    config = QuantizationConfig(ops={"node_0": INT8, "node_2": OTHER, "node_4": INT8})
    found = map_config(config, Ops(types=old), space(new), Ops(types=new))
    assert found.config == QuantizationConfig(ops={"features.v": INT8, "features.x": OTHER, "features.z": INT8})
    assert (found.renamed, found.unmapped, found.lost) == (5, (), ())


def test_an_op_that_is_new_stays_fp32_and_shifts_no_other() -> None:
    old, new = types("a", "b", "c"), {"x": "Conv", "p": "Pool", "y": "Conv", "z": "Conv"}
    config = QuantizationConfig(ops={"a": INT8, "c": OTHER})
    found = map_config(config, Ops(types=old), space(new), Ops(types=new))
    assert found.config["p"] == FP32
    assert found.unmapped == ("p",)
    assert found.config["z"] == OTHER


def test_readers_tell_ops_of_one_type_apart() -> None:
    old = Ops(types=types("a", "b"), readers={"a": ["b"]})
    new = Ops(types=types("p", "a2", "b2"), readers={"p": ["a2", "b2"], "a2": ["b2"]})
    found = map_config(QuantizationConfig(ops={"a": INT8, "b": OTHER}), old, space(dict(new.types)), new)
    assert (found.config["a2"], found.config["b2"], found.config["p"]) == (INT8, OTHER, FP32)


def test_more_blocks_of_one_kind_take_what_most_of_them_have() -> None:
    old = types(*(f"layer.{index}.{op}" for index in range(4) for op in "qk"))
    new = types(*(f"layer.{index}.{op}" for index in range(6) for op in "qk"))
    config = QuantizationConfig(
        ops={"layer.0.q": OTHER, "layer.1.q": INT8, "layer.2.q": INT8, "layer.3.q": INT8, "layer.3.k": INT8}
    )
    found = map_config(config, Ops(types=old), space(new), Ops(types=new))
    assert [found.config[f"layer.{index}.q"] for index in range(6)] == [OTHER, INT8, INT8, INT8, INT8, INT8]
    assert [found.config[f"layer.{index}.k"] for index in range(6)] == [FP32, FP32, FP32, INT8, FP32, FP32]
    assert (found.repeated, found.unmapped, found.lost) == (4, (), ())
    assert any("repeated blocks" in note for note in found.notes)


def residual(blocks: int, name: str) -> Ops:
    """Two convolutions and an addition in each block, whose output the next block reads twice, and a head."""
    names: dict[str, str] = {}
    readers: dict[str, list[str]] = {}
    for block in range(blocks):
        first, second, add = (name.format(3 * block + index) for index in range(3))
        names |= {first: "Conv", second: "Conv", add: "Add"}
        after = [name.format(3 * block + 3), name.format(3 * block + 5)] if block + 1 < blocks else ["head"]
        readers |= {first: [second], second: [add], add: after}
    return Ops(types={**names, "head": "Gemm"}, readers=readers)


@pytest.mark.parametrize("more", [1, 3])
def test_more_blocks_are_known_by_their_places_where_no_name_is_left(more: int) -> None:
    old, new = residual(4, "old_{}_op"), residual(4 + more, "{}x")
    chosen = {name: OTHER if kind == "Add" else INT8 for name, kind in old.types.items() if name != "old_1_op"}
    found = map_config(QuantizationConfig(ops=chosen), old, space(dict(new.types)), new)
    assert (found.repeated, found.unmapped) == (3 * more, ())
    for name, kind in new.types.items():
        assert found.config[name] in ((OTHER,) if kind == "Add" else (INT8, FP32)), name
    assert sum(found.config[name] == FP32 for name in new.types) == 1, "one op was fp32, and no more are"


def test_a_place_that_no_other_op_has_stays_fp32() -> None:
    old = Ops(types=types("a", "b"), readers={"a": ["b"]})
    new = Ops(types={**types("c", "d"), "s": "Add", "e": "Conv"}, readers={"c": ["d"], "e": ["s"], "d": ["s"]})
    found = map_config(QuantizationConfig(ops={"a": INT8, "b": INT8}), old, space(dict(new.types)), new)
    assert found.repeated == 0


def test_ops_that_are_gone_are_a_note() -> None:
    found = map_config(
        QuantizationConfig(ops={"a": INT8, "gone": INT8}),
        Ops(types=types("a", "gone")),
        space(types("a")),
        Ops(types=types("a")),
    )
    assert found.config == QuantizationConfig(ops={"a": INT8})
    assert found.notes == ["1 quantized op without a place in this model: gone"]


def test_what_is_not_offered_becomes_the_nearest() -> None:
    names = types("a")
    config = QuantizationConfig(
        ops={"a": OTHER}, recipe=Recipe(reduce_range=True, equalization=True, options={"format": "qdq"})
    )
    narrow = TuningSpace(
        ops=(
            OpSpace(
                name="a",
                op_type="Conv",
                precisions=(
                    PrecisionSpace(
                        precision=Precision.INT8, activations=(U8,), weights=(S8_CHANNELS,), algorithms=(MINMAX,)
                    ),
                ),
            ),
        ),
        recipe=RecipeSpace(reduce_range=(False, True)),
    )
    found = map_config(config, None, narrow, Ops(types=names))
    assert found.config == QuantizationConfig(ops={"a": INT8}, recipe=Recipe(reduce_range=True))
    assert set(found.changed) == {"a", "recipe.equalization", "recipe.format"}
    assert found.config in narrow


@pytest.mark.parametrize("count", [0, 1, 7])
def test_what_is_mapped_lies_in_the_space(count: int) -> None:
    old, new = types(*(f"n{index}" for index in range(count))), types(*(f"m{index}" for index in range(5)))
    config = QuantizationConfig(ops=dict.fromkeys(old, INT8))
    for known in (Ops(types=old), None):
        assert map_config(config, known, space(new), Ops(types=new)).config in space(new)
