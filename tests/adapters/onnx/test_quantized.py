"""Models that somebody else quantized are named, and left as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

from autotune.adapter import Array, Execution
from autotune.adapters.onnx.options import GraphFormat
from autotune.adapters.onnx.quantized import is_pair, quantized_nodes, quantized_part
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.config import Precision, QuantizationConfig
from tests.adapters.onnx.graphs import image_batches, node, small_cnn

ADAPTER = OnnxRuntimeAdapter()
BATCHES = image_batches()


class Batches(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime ships no types
    def __init__(self) -> None:
        self._batches = iter(BATCHES)

    def get_next(self) -> Any:
        return next(self._batches, None)


def by_onnxruntime(folder: Path, nodes: Sequence[str] | None, form: QuantFormat = QuantFormat.QDQ) -> onnx.ModelProto:
    onnx.save(small_cnn(), folder / "fp32.onnx")
    quantize_static(folder / "fp32.onnx", folder / "int8.onnx", Batches(), quant_format=form, nodes_to_quantize=nodes)
    return onnx.load(folder / "int8.onnx")


def output(model: OnnxModel) -> Array:
    return ADAPTER.runner(model, Execution())(BATCHES[0])[0]


def preferred(model: OnnxModel) -> OnnxModel:
    return ADAPTER.apply(model, ADAPTER.space(model).preferred, ADAPTER.calibrate(model, BATCHES, seed=0))


@pytest.mark.parametrize("form", list(QuantFormat))
def test_a_quantized_model_is_named_and_left(form: QuantFormat, tmp_path: Path) -> None:
    model = ADAPTER.load(by_onnxruntime(tmp_path, None, form))
    (note,) = [note for note in model.notes if "quantized already, or a part of it is" in note]
    assert "QuantizeLinear" in note
    assert not ADAPTER.space(model).tunable
    np.testing.assert_array_equal(output(model), output(ADAPTER.as_given(model)))
    if form is QuantFormat.QDQ:
        assert any("Conv 'c1', 'c2', 'c3' stays as it is: it is quantized already" in note for note in model.notes)


PARTS: dict[str, tuple[list[str], list[str]]] = {
    "in the middle": (["c3"], ["c1", "c2", "sum", "pooled", "logits"]),
    "at the ends": (["c1", "logits"], ["c2", "c3", "sum", "pooled"]),
    "no convolution": (["sum", "pooled"], ["c1", "c2", "c3", "logits"]),
}


@pytest.mark.parametrize("form", list(QuantFormat))
@pytest.mark.parametrize("part", PARTS)
def test_the_rest_of_a_partly_quantized_model_is_offered(part: str, form: QuantFormat, tmp_path: Path) -> None:
    """Names of ONNX Runtime's quantizer do not clash with its own of the first time."""
    theirs, offered = PARTS[part]
    model = ADAPTER.load(by_onnxruntime(tmp_path, theirs, form))
    assert [op.name for op in ADAPTER.space(model).tunable] == offered
    candidate = preferred(model)
    before, after = output(ADAPTER.as_given(model)), output(candidate)
    noise = np.square(before - after).mean()
    assert 10 * np.log10(np.square(before).mean() / noise) > 25.0
    kept = {each.name for each in model.proto.graph.node if is_pair(each)}
    assert kept <= {each.name for each in candidate.proto.graph.node}, "the user's own Q and DQ stay"


def test_what_the_user_rounds_stays_rounded(tmp_path: Path) -> None:
    """An fp32 op that reads a Q/DQ pair of the user's reads no original instead."""
    proto = by_onnxruntime(tmp_path, ["sum"])
    model = ADAPTER.load(proto)
    space = ADAPTER.space(model)
    config = QuantizationConfig(ops={"c2": space.preferred["c2"]}, recipe=space.preferred.recipe)
    candidate = ADAPTER.apply(model, config, ADAPTER.calibrate(model, BATCHES, seed=0))
    add = next(each for each in candidate.proto.graph.node if each.name == "sum")
    producers = {name: each.op_type for each in candidate.proto.graph.node for name in each.output}
    assert [producers[name] for name in add.input] == ["DequantizeLinear"] * 2


def test_what_rescales_the_integers_of_a_dynamic_op_is_no_op(tmp_path: Path) -> None:
    onnx.save(small_cnn(), tmp_path / "fp32.onnx")
    quantize_dynamic(tmp_path / "fp32.onnx", tmp_path / "int8.onnx")
    model = ADAPTER.load(tmp_path / "int8.onnx")
    assert [op.name for op in ADAPTER.space(model).ops] == ["sum", "pooled"]
    assert any("ConvInteger" in note for note in model.notes)
    assert np.isfinite(output(preferred(model))).all()


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_DYNAMIC])
@pytest.mark.parametrize("form", list(GraphFormat))
def test_our_own_output_is_accepted_as_input(precision: Precision, form: GraphFormat, tmp_path: Path) -> None:
    model = ADAPTER.load(small_cnn())
    space = ADAPTER.space(model)
    statistics = ADAPTER.calibrate(model, BATCHES, seed=0)
    choices = {
        op.name: within.preferred for op in space.ops for within in op.precisions if within.precision is precision
    }
    if not choices:
        pytest.skip(f"no op of this network offers {precision}")
    recipe = space.recipe.changed(space.preferred.recipe, {"format": form})
    candidate = ADAPTER.apply(model, QuantizationConfig(ops=choices, recipe=recipe), statistics)
    ADAPTER.save(candidate, tmp_path / "first.onnx", {})
    again = ADAPTER.load(tmp_path / "first.onnx")
    assert any("quantized already" in note for note in again.notes)
    np.testing.assert_allclose(output(again), output(candidate), rtol=1e-4, atol=1e-5)
    second = preferred(again)
    ADAPTER.save(second, tmp_path / "second.onnx", {})
    assert np.isfinite(output(ADAPTER.load(tmp_path / "second.onnx"))).all()


def test_quantized_nodes_inside_of_branches_count() -> None:
    value = onnx.helper.make_tensor_value_info("t", 1, None)
    branch = onnx.helper.make_graph([node("DynamicQuantizeLinear", "x", "t u v")], "branch", [], [value])
    graph = onnx.helper.make_graph(
        [node("If", "condition", "y", then_branch=branch, else_branch=branch)], "graph", [], [value]
    )
    assert quantized_nodes(graph) == {"DynamicQuantizeLinear": 2}


def test_the_quantized_part_ends_where_values_are_floats_again() -> None:
    nodes = [
        node("DynamicQuantizeLinear", "x", "q scale zero"),
        node("MatMulInteger", "q w zero", "sums"),
        node("Cast", "sums", "floats", to=1),
        node("Mul", "scale wscale", "scales"),
        node("Mul", "floats scales", "product"),
        node("Add", "product bias", "y"),
        node("Mul", "y y", "z"),
    ]
    assert quantized_part(nodes) == {"q", "scale", "zero", "sums", "floats", "scales", "product"}
