"""LayerNormalization and GELU that an exporter wrote out are one op each, in whatever way they are written."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array, Execution
from autotune.adapters.onnx import fusion
from autotune.adapters.onnx.compare import relative_difference
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.config import SmoothQuant
from tests.adapters.onnx.graphs import build, normal

ADAPTER = OnnxRuntimeAdapter()
HIDDEN = 16
FEEDS = {"x": normal(2, 5, HIDDEN, seed=7, scale=1.0)}
ERF_FORMS = ("divided", "multiplied", "halved first", "halved inside", "spread out")
TANH_FORMS = ("power", "products", "factored", "spread out")
SQUARES, QUOTIENTS = ("Pow", "Mul"), ("Div", "Reciprocal", "Pow")

Constants = dict[str, Array]


class Writer:
    """Writes operators out, as exporters do; ``x`` is the first tensor."""

    def __init__(self, opset: int = 13) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: Constants = {}
        self.last = "x"

    def add(self, op_type: str, *inputs: str | float | Array, **attributes: Any) -> str:
        names = []
        for each in inputs:
            if isinstance(each, str):
                names.append(each)
            else:
                names.append(f"constant{len(self.constants)}")
                self.constants[names[-1]] = each if isinstance(each, np.ndarray) else np.array(each, np.float32)
        output = f"{op_type}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, names, [output], output, **attributes))
        self.last = output
        return output

    def mean(self, tensor: str) -> str:
        if self.opset < 18:
            return self.add("ReduceMean", tensor, axes=[-1])
        return self.add("ReduceMean", tensor, np.array([-1]))

    def layer_normalization(
        self, square: str = "Pow", quotient: str = "Div", vectors: Sequence[Array] = (), *, epsilon: float = 1e-5
    ) -> None:
        source = self.last
        deviation = self.add("Sub", source, self.mean(source))
        squared = self.add("Pow", deviation, 2.0) if square == "Pow" else self.add("Mul", deviation, deviation)
        variance = self.add("Add", self.mean(squared), epsilon)
        if quotient == "Pow":
            self.add("Mul", deviation, self.add("Pow", variance, -0.5))
        elif quotient == "Div":
            self.add("Div", deviation, self.add("Sqrt", variance))
        else:
            self.add("Mul", self.add("Reciprocal", self.add("Sqrt", variance)), deviation)
        for op_type, vector in zip(("Mul", "Add"), vectors, strict=False):
            self.add(op_type, self.last, vector)

    def erf(self, form: str) -> None:
        x = self.last
        argument = self.add("Div", x, math.sqrt(2)) if form == "divided" else self.add("Mul", x, math.sqrt(0.5))
        result = self.add("Erf", argument)
        self.product(form, x, result)

    def tanh(self, form: str) -> None:
        x, root = self.last, math.sqrt(2 / math.pi)
        if form == "factored":
            inner = self.add("Add", self.add("Mul", self.add("Mul", x, x), 0.044715), 1.0)
            argument = self.add("Mul", self.add("Mul", x, root), inner)
        else:
            cube = self.add("Pow", x, 3.0) if form == "power" else self.add("Mul", x, self.add("Mul", x, x))
            argument = self.add("Mul", root, self.add("Add", x, self.add("Mul", 0.044715, cube)))
        self.product(form, x, self.add("Tanh", argument))

    def product(self, form: str, x: str, result: str) -> None:
        if form == "spread out":
            half = self.add("Mul", x, 0.5)
            self.add("Add", half, self.add("Mul", half, result))
        elif form in ("halved first", "factored"):
            self.add("Mul", self.add("Mul", x, 0.5), self.add("Add", result, 1.0))
        elif form in ("halved inside", "products"):
            self.add("Mul", x, self.add("Mul", 0.5, self.add("Add", 1.0, result)))
        else:
            self.add("Mul", self.add("Mul", x, self.add("Add", result, 1.0)), 0.5)

    def product_with_matrix(self, seed: int = 0) -> None:
        self.add("MatMul", self.last, normal(HIDDEN, HIDDEN, seed=seed))

    def model(self) -> onnx.ModelProto:
        outputs = {self.last: ("N", "S", HIDDEN)}
        return build(self.nodes, {"x": ("N", "S", HIDDEN)}, outputs, self.constants, opset=self.opset)


def types(model: OnnxModel) -> list[tuple[str, str]]:
    return [(n.domain, n.op_type) for n in model.proto.graph.node]


def changed_by(proto: onnx.ModelProto) -> float:
    expected = ADAPTER.runner(OnnxModel(proto=proto), Execution())(FEEDS)[0]
    return relative_difference(expected, ADAPTER.runner(ADAPTER.load(proto), Execution())(FEEDS)[0])


def vectors(count: int, shape: Sequence[int] = (HIDDEN,)) -> list[Array]:
    return [normal(*shape, seed=index) for index in range(count)]


@pytest.mark.parametrize(("opset", "domain"), [(13, "com.microsoft"), (18, "com.microsoft"), (20, ""), (21, "")])
@pytest.mark.parametrize("form", ERF_FORMS)
def test_exact_gelu_is_one_op(form: str, opset: int, domain: str) -> None:
    writer = Writer(opset)
    writer.erf(form)
    model = ADAPTER.load(writer.model())
    assert types(model) == [(domain, "Gelu")]
    assert ADAPTER.space(model).ops == ()
    assert any("runs nowhere else" in note for note in model.notes) == bool(domain)
    assert changed_by(writer.model()) < 1e-5


@pytest.mark.parametrize(("opset", "expected"), [(13, ("com.microsoft", "FastGelu")), (20, ("", "Gelu"))])
@pytest.mark.parametrize("form", TANH_FORMS)
def test_approximated_gelu_is_one_op(form: str, opset: int, expected: tuple[str, str]) -> None:
    writer = Writer(opset)
    writer.tanh(form)
    assert types(ADAPTER.load(writer.model())) == [expected]
    assert changed_by(writer.model()) < 1e-5


@pytest.mark.parametrize("opset", [13, 17, 18])
@pytest.mark.parametrize(("square", "quotient"), list(itertools.product(SQUARES, QUOTIENTS)))
@pytest.mark.parametrize("count", [0, 1, 2])
def test_layer_normalization_is_one_op(square: str, quotient: str, count: int, opset: int) -> None:
    writer = Writer(opset)
    writer.layer_normalization(square, quotient, vectors(count))
    model = ADAPTER.load(writer.model())
    assert types(model) == [("", "LayerNormalization")]
    assert changed_by(writer.model()) < 1e-5
    if opset >= 17:
        onnx.checker.check_model(model.proto)
        assert model.notes == ()
    else:
        assert any("opset 17 or newer" in note for note in model.notes)


def test_vectors_of_more_dimensions_are_flattened() -> None:
    writer = Writer()
    writer.layer_normalization(vectors=vectors(2, (1, 1, HIDDEN)))
    assert types(ADAPTER.load(writer.model())) == [("", "LayerNormalization")]
    assert changed_by(writer.model()) < 1e-5


def test_one_factor_for_all_stays_an_op_of_its_own() -> None:
    writer = Writer()
    writer.layer_normalization(vectors=[np.array([1.5], np.float32)])
    assert [op_type for _, op_type in types(ADAPTER.load(writer.model()))] == ["LayerNormalization", "Mul"]
    assert changed_by(writer.model()) < 1e-5


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_fusion_keeps_outputs(data: st.DataObject) -> None:
    writer = Writer(data.draw(st.sampled_from((13, 17, 18, 20))))
    sizes = st.floats(0.05, 20.0)
    for index in range(data.draw(st.integers(1, 3))):
        writer.product_with_matrix(index)
        kind = data.draw(st.sampled_from(("erf", "tanh", "normalization")))
        if data.draw(st.booleans()):
            writer.add("Mul", writer.last, data.draw(sizes))
        if kind == "erf":
            writer.erf(data.draw(st.sampled_from(ERF_FORMS)))
        elif kind == "tanh":
            writer.tanh(data.draw(st.sampled_from(TANH_FORMS)))
        else:
            scale = data.draw(sizes)
            writer.layer_normalization(
                data.draw(st.sampled_from(SQUARES)),
                data.draw(st.sampled_from(QUOTIENTS)),
                [vector * np.float32(scale) for vector in vectors(data.draw(st.integers(0, 2)))],
                epsilon=data.draw(st.sampled_from((1e-12, 1e-5, 1e-1))),
            )
    assert changed_by(writer.model()) < 1e-4
    offered = {op.op_type for op in ADAPTER.space(ADAPTER.load(writer.model())).ops}
    assert offered <= {"MatMul", "Mul"}
    assert not {"Erf", "Tanh", "ReduceMean"} & {op_type for _, op_type in types(ADAPTER.load(writer.model()))}


def test_similar_formulas_are_left() -> None:
    for value, wrong in ((0.5, 0.4), (math.sqrt(2), 1.5), (1.0, 1.1), (0.044715, 0.05), (3.0, 2.0)):
        for form in ("erf", "tanh"):
            writer = Writer(13)
            getattr(writer, form)("divided" if form == "erf" else "power")
            same = [name for name, constant in writer.constants.items() if constant == np.float32(value)]
            for name in same:
                writer.constants[name] = np.array(wrong, np.float32)
            if same:
                assert not {"Gelu", "FastGelu"} & {op_type for _, op_type in types(ADAPTER.load(writer.model()))}
                assert changed_by(writer.model()) == 0.0


def test_statistics_over_other_axes_are_left() -> None:
    writer = Writer()
    writer.layer_normalization(vectors=vectors(2))
    for each in writer.nodes:
        if each.op_type == "ReduceMean":
            each.attribute[0].ints[:] = [1]
    assert "LayerNormalization" not in {op_type for _, op_type in types(ADAPTER.load(writer.model()))}
    assert changed_by(writer.model()) == 0.0


@pytest.mark.parametrize("op_type", ["Sqrt", "Erf"])
def test_what_is_read_from_outside_is_left(op_type: str) -> None:
    writer = Writer()
    writer.layer_normalization()
    writer.product_with_matrix()
    writer.erf("divided")
    proto = writer.model()
    inside = next(n.output[0] for n in proto.graph.node if n.op_type == op_type)
    proto.graph.output.append(helper.make_tensor_value_info(inside, TensorProto.FLOAT, None))
    model = ADAPTER.load(proto)
    assert op_type in {kind for _, kind in types(model)}
    assert len(model.outputs) == 2


def test_fusion_that_changes_outputs_is_undone_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "TOLERANCE", -1.0)
    writer = Writer()
    writer.layer_normalization(vectors=vectors(2))
    writer.product_with_matrix()
    writer.erf("divided")
    model = ADAPTER.load(writer.model())
    assert {"Sqrt", "Erf"} <= {op_type for _, op_type in types(model)}
    for kind in ("LayerNormalization", "Gelu"):
        assert any(kind in note and "stay as exported" in note for note in model.notes)
    assert changed_by(writer.model()) == 0.0


def test_half_precision_is_left() -> None:
    writer = Writer()
    writer.layer_normalization(vectors=vectors(2))
    writer.erf("divided")
    constants = {name: value.astype(np.float16) for name, value in writer.constants.items()}
    proto = build(
        writer.nodes,
        {"x": ("N", HIDDEN)},
        {writer.last: None},
        constants,
        opset=13,
        elem_type=TensorProto.FLOAT16,
    )
    model = ADAPTER.load(proto)
    assert {"Sqrt", "Erf"} <= {op_type for _, op_type in types(model)}
    assert any("float16" in note for note in model.notes)


def test_tensors_of_unknown_rank_stay_so() -> None:
    """A model whose tensors take a shape that is computed; written down as scalars, they would make it unreadable."""
    writer = Writer()
    writer.add("Reshape", "x", "shape")
    writer.product_with_matrix()
    writer.erf("divided")
    proto = writer.model()
    proto.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, ["R"]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info(writer.last, TensorProto.FLOAT, None))
    model = ADAPTER.load(proto)
    feeds = {**FEEDS, "shape": np.array([10, HIDDEN])}
    assert ADAPTER.runner(model, Execution())(feeds)[0].shape == (10, HIDDEN)
    statistics = ADAPTER.calibrate(model, [feeds], seed=0)
    config = ADAPTER.space(model).preferred
    assert not config.is_fp32
    assert ADAPTER.runner(ADAPTER.apply(model, config, statistics), Execution())(feeds)[0].shape == (10, HIDDEN)


def test_smoothing_folds_into_what_was_written_out() -> None:
    writer = Writer()
    writer.layer_normalization(vectors=vectors(2))
    for seed in range(2):
        writer.product_with_matrix(seed)
    assert SmoothQuant.AUTO in ADAPTER.space(ADAPTER.load(writer.model())).recipe.smooth_quant


def test_weights_stay_where_they_are() -> None:
    writer = Writer()
    writer.product_with_matrix()
    writer.layer_normalization(vectors=vectors(2))
    model = ADAPTER.load(writer.model())
    (matrix,) = [t for t in model.proto.graph.initializer if len(t.dims) == 2]
    np.testing.assert_array_equal(numpy_helper.to_array(matrix), normal(HIDDEN, HIDDEN))
    assert len(model.proto.graph.initializer) == 3
