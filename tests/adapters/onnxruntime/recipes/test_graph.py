"""How ONNX nodes are told to the recipes' algorithms, and how one of them is run."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from autotune.adapter import Array, Execution
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnxruntime.choices.ops import quantizable_ops
from autotune.adapters.onnxruntime.recipes.graph import OnnxGraph, with_constants
from autotune.algorithms.graph import Clip, Convolution, Layer, LayerGraph, Node, Scaled, Sum
from tests.adapters.onnx.graphs import build, node, normal, small_cnn
from tests.adapters.onnxruntime.recipes.chains import ADAPTER, BATCHES

IMAGE = ("N", 3, 8, 8)


def graph_of(proto: onnx.ModelProto) -> OnnxGraph:
    model = OnnxModel(proto=onnx.shape_inference.infer_shapes(proto))
    return OnnxGraph(model, quantizable_ops(Graph(model.proto))[0])


def only(nodes: list[onnx.NodeProto], constants: dict[str, Array], shape: tuple[int | str, ...] = IMAGE) -> Node:
    """The last of the nodes, as the algorithms know it."""
    return graph_of(build(nodes, {"x": shape}, {nodes[-1].output[0]: None}, constants)).nodes[-1]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, Convolution(strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0))),
        (
            {"group": 3, "strides": [2, 1], "dilations": [1, 2], "pads": [1, 2, 3, 4]},
            Convolution(groups=3, strides=(2, 1), dilations=(1, 2), pads=(1, 2, 3, 4)),
        ),
        ({"auto_pad": "VALID"}, Convolution(strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0))),
        ({"auto_pad": "SAME_UPPER"}, Convolution(strides=(1, 1), dilations=(1, 1), pads=None)),
    ],
)
def test_convolutions(attributes: dict[str, object], expected: Convolution) -> None:
    weight = normal(6, 1 if "group" in attributes else 3, 3, 3)
    layer = only([node("Conv", "x w b", "y", **attributes)], {"w": weight, "b": normal(6)})
    assert isinstance(layer, Layer)
    assert layer.convolution == expected
    assert (layer.source, layer.weight, layer.bias, layer.axis) == ("x", "w", "b", 0)


@pytest.mark.parametrize(
    ("product", "shape", "axis"),
    [
        (node("MatMul", "x w", "y"), (8, 5), 1),
        (node("MatMul", "x w", "y"), (2, 8, 5), None),
        (node("Gemm", "x w", "y"), (8, 5), 1),
        (node("Gemm", "x w", "y", transB=1), (5, 8), 0),
    ],
)
def test_matrix_products(product: onnx.NodeProto, shape: tuple[int, ...], axis: int | None) -> None:
    layer = only([product], {"w": normal(*shape)}, ("N", 8))
    assert isinstance(layer, Layer)
    assert layer.convolution is None
    assert (layer.source, layer.weight, layer.bias, layer.axis) == ("x", "w", None, axis)


@pytest.mark.parametrize(
    ("activation", "ends"),
    [
        (node("Relu", "x", "y"), (0.0, math.inf)),
        (node("Clip", "x zero six", "y"), (0.0, 6.0)),
        (node("Clip", "x  six", "y"), (-math.inf, 6.0)),
        (node("Clip", "x zero", "y"), (0.0, math.inf)),
        (node("Clip", "x zero m", "y"), None),
    ],
)
def test_activations(activation: onnx.NodeProto, ends: tuple[float, float] | None) -> None:
    if list(activation.input) == ["x", "six"]:
        activation.input[:] = ["x", "", "six"]
    constants = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    largest = node("ReduceMax", "x", "m", keepdims=0)
    clip = only([largest, activation], constants)
    assert isinstance(clip, Clip)
    assert clip.reads[0] == "x"
    assert (math.isnan(clip.low) and math.isnan(clip.high)) if ends is None else (clip.low, clip.high) == ends


def test_sums_and_scalings() -> None:
    vectors = {"g": normal(8), "b": normal(8), "one": normal(1), "m": normal(8, 8)}
    for scaling, expected in (
        (node("Mul", "x g", "y"), ("g",)),
        (node("LayerNormalization", "x g b", "y", axis=-1), ("g", "b")),
        (node("LayerNormalization", "x g b", "y", axis=1), ("g", "b")),
    ):
        scaled = only([scaling], vectors, ("N", 8))
        assert isinstance(scaled, Scaled)
        assert scaled.vectors == expected
    for other in (node("Mul", "x one", "y"), node("Mul", "x m", "y"), node("Mul", "x x", "y")):
        assert type(only([other], vectors, (8, 8))) is Node
    total = only([node("Add", "x g", "y")], vectors, ("N", 8))
    assert isinstance(total, Sum)
    assert total.reads == ("x", "g")


def test_reads_of_graphs_inside_of_nodes_count() -> None:
    branches = {}
    for name in ("then_branch", "else_branch"):
        out = onnx.helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, None)
        branches[name] = onnx.helper.make_graph([node("Add", "r w", f"{name}_out")], name, [], [out])
    nodes = [node("Relu", "x", "r"), node("If", "flag", "y", **branches)]
    constants = {"w": normal(8), "flag": np.array(True)}
    conditional = only(nodes, constants, ("N", 8))
    assert set(conditional.reads) >= {"flag", "r", "w"}


def test_nodes_one_by_one_compute_what_the_model_does() -> None:
    model = ADAPTER.load(small_cnn())
    graph: LayerGraph = OnnxGraph(model, quantizable_ops(Graph(model.proto))[0])
    assert sum(isinstance(each, Layer) for each in graph.nodes) == 4
    values = {"x": [feeds["x"] for feeds in BATCHES]}
    for each in graph.nodes:
        values.update(graph.run(each, values))
    for chunk, feeds in enumerate(BATCHES):
        expected = ADAPTER.runner(model, Execution())(feeds)[0]
        np.testing.assert_allclose(values["logits"][chunk], expected, rtol=1e-4, atol=1e-5)


def test_constants_in_place_of_the_graphs_own() -> None:
    model = ADAPTER.load(build([node("Conv", "x w", "y")], {"x": IMAGE}, {"y": None}, {"w": normal(4, 3, 1, 1)}))
    graph = OnnxGraph(model, quantizable_ops(Graph(model.proto))[0])
    changed = {"w": 2.0 * graph.constants["w"]}
    (layer,) = graph.nodes
    values = {"x": [BATCHES[0]["x"]]}
    plain, doubled = (graph.run(layer, values, given)["y"][0] for given in (None, changed))
    np.testing.assert_allclose(doubled, 2.0 * plain, rtol=1e-5)
    written = with_constants(model, changed)
    np.testing.assert_allclose(ADAPTER.runner(written, Execution())(BATCHES[0])[0], doubled, rtol=1e-5)
    assert (OnnxGraph(model).constants["w"] == graph.constants["w"]).all()
