"""Small networks as ``.tflite`` files, written without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from autotune.adapter import Array
from autotune.adapters.tensorflow.graph import FLOAT32, Graph

SAME, VALID = 0, 1
NONE, RELU, RELU6 = 0, 1, 3


class Builder:
    """Adds layers to a graph one after the other; tensors are given by place.

    Args:
        shape: Shape of one sample of the input.
        seed: Seed of the weights.
        free: Whether the number of samples is free.
    """

    def __init__(self, shape: Sequence[int], seed: int = 0, *, free: bool = True) -> None:
        self.graph = Graph.empty()
        self._rng = np.random.default_rng(seed)
        self._free = free
        self.input = self.tensor(shape, "serving_default_x:0")

    def tensor(self, shape: Sequence[int], name: str) -> int:
        """A tensor of one sample, or of a free number of them."""
        place = self.graph.add_tensor((1, *shape), FLOAT32, name)
        if self._free:
            self.graph.tensors[place].shapeSignature = [-1, *shape]
        return place

    def shape(self, place: int) -> tuple[int, ...]:
        """Shape of one sample of a tensor."""
        return tuple(self.graph.tensors[place].shape[1:])

    def weight(self, *shape: int, inputs: int) -> Array:
        """Random weights of a layer that sums up so many inputs."""
        return self._rng.normal(0, 1 / np.sqrt(inputs), shape).astype(np.float32)

    def conv(
        self,
        source: int,
        name: str,
        channels: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        act: int = RELU,
        padding: int = SAME,
        depthwise: bool = False,
        weight: Array | None = None,
    ) -> int:
        """A convolution with a bias and an activation; depthwise, it has as many outputs as inputs."""
        height, width, inputs = self.shape(source)
        shape = (1, kernel, kernel, channels) if depthwise else (channels, kernel, kernel, inputs)
        values = self.weight(*shape, inputs=kernel**2 * (1 if depthwise else inputs)) if weight is None else weight
        bias = self._rng.normal(0, 0.1, channels).astype(np.float32)
        places = [self.graph.add_constant(values, f"{name}/weight"), self.graph.add_constant(bias, f"{name}/bias")]
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.strideH = options.strideW = stride
        options.dilationHFactor = options.dilationWFactor = 1
        options.padding, options.fusedActivationFunction = padding, act
        if depthwise:
            options.depthMultiplier = 1
        size = [-(-n // stride) if padding == SAME else (n - kernel) // stride + 1 for n in (height, width)]
        out = self.tensor((*size, channels), f"{name}/out;{name}/more")
        kind, told = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else ("CONV_2D", "Conv2DOptions")
        self.graph.add_operator(kind, [source, *places], [out], (told, options))
        return out

    def add(self, first: int, second: int, name: str, *, act: int = RELU) -> int:
        """A sum of two tensors of one shape."""
        options = schema.AddOptionsT()
        options.fusedActivationFunction = act
        out = self.tensor(self.shape(first), name)
        self.graph.add_operator("ADD", [first, second], [out], ("AddOptions", options))
        return out

    def pad(self, source: int, name: str) -> int:
        """A frame of zeros, one wide."""
        height, width, channels = self.shape(source)
        around = self.graph.add_constant(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
        out = self.tensor((height + 2, width + 2, channels), name)
        self.graph.add_operator("PAD", [source, around], [out], ("PadOptions", schema.PadOptionsT()))
        return out

    def mean(self, source: int, name: str) -> int:
        """The mean over height and width."""
        axes = self.graph.add_constant(np.array([1, 2], np.int32))
        options = schema.ReducerOptionsT()
        options.keepDims = False
        out = self.tensor(self.shape(source)[2:], name)
        self.graph.add_operator("MEAN", [source, axes], [out], ("ReducerOptions", options))
        return out

    def dense(self, source: int, name: str, outputs: int) -> int:
        """A product with a matrix, and a bias."""
        (inputs,) = self.shape(source)
        weight = self.graph.add_constant(self.weight(outputs, inputs, inputs=inputs), f"{name}/weight")
        bias = self.graph.add_constant(np.zeros(outputs, np.float32), f"{name}/bias")
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = NONE
        out = self.tensor((outputs,), f"{name}/out")
        self.graph.add_operator("FULLY_CONNECTED", [source, weight, bias], [out], ("FullyConnectedOptions", options))
        return out

    def plain(self, kind: str, source: int, name: str) -> int:
        """An op without options that keeps the shape."""
        out = self.tensor(self.shape(source), name)
        self.graph.add_operator(kind, [source], [out])
        return out

    def content(self, *outputs: int, signature: bool = True) -> bytes:
        """The bytes of the file; a signature names the input ``x`` and the outputs ``y0``, ``y1``..."""
        self.graph.set_ends([self.input], outputs)
        if signature:
            made = schema.SignatureDefT()
            made.signatureKey, made.subgraphIndex = b"serving_default", 0
            made.inputs = [_map("x", self.input)]
            made.outputs = [_map(f"y{index}", place) for index, place in enumerate(outputs)]
            self.graph.model.signatureDefs = [made]
        return self.graph.to_bytes()


def _map(name: str, place: int) -> schema.TensorMapT:
    made = schema.TensorMapT()
    made.name, made.tensorIndex = name.encode(), place
    return made


def small_cnn(channels: int = 96) -> bytes:
    """Padding, convolutions, a depthwise one, a residual sum, a mean and a head."""
    net = Builder((16, 16, 3))
    stem = net.conv(net.pad(net.input, "pad"), "stem", channels, stride=2, padding=VALID)
    depthwise = net.conv(stem, "depthwise", channels, depthwise=True, act=RELU6)
    point = net.conv(depthwise, "point", channels, 1, act=NONE)
    total = net.add(point, stem, "sum")
    return net.content(net.dense(net.mean(total, "pool"), "head", 10))


def batches(count: int = 4, samples: int = 8) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(samples, 16, 16, 3)).astype(np.float32)} for _ in range(count)]
