"""Models of the benchmarks in PaddlePaddle: real ones made of ONNX files, and architectures of published figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.framework import old_representation, paddle, quiet
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.save import save_model

FLOAT = np.dtype(np.float32)


def from_onnx(source: Path, target: Path) -> Path:
    """Write the program of a convolutional network that lies in an ONNX file, op by op.

    Args:
        source: The ONNX file.
        target: Path of the ``.pdmodel`` file.
    """
    graph = onnx.load(source).graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Identity", "Constant"):
            value = constants.get(node.input[0]) if node.input else numpy_helper.to_array(node.attribute[0].t)
            if value is not None:
                constants[node.output[0]] = value
    program = programs.empty()
    feed, fetch = graph.input[0], graph.output[0].name
    shape = [dim.dim_value or -1 for dim in feed.type.tensor_type.shape.dim]
    programs.add_tensor(program, feed.name, FLOAT, shape)
    writer = _Writer(program, constants)
    for node in graph.node:
        if node.op_type not in ("Identity", "Constant"):
            writer.write(node)
    made = programs.part(program, writer.ops, [feed.name], [fetch])
    kept = programs.drop_unused(made, writer.written)
    return save_model(PaddleModel(content=made.SerializeToString(), constants=kept), target, {})[0]


class _Writer:
    """Writes ops of Paddle for those of ONNX."""

    def __init__(self, program: Any, constants: dict[str, Any]) -> None:
        self._program = program
        self._constants = constants
        self.ops: list[Any] = []
        self.written: dict[str, Any] = {}

    def write(self, node: Any) -> None:
        options = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        (out, *_), reads = node.output, node.input
        kind = node.op_type
        if kind == "Conv":
            self._convolution(reads, out, options)
        elif kind == "BatchNormalization":
            slots = dict(zip(("X", "Scale", "Bias", "Mean", "Variance"), ([name] for name in reads), strict=True))
            for name in reads[1:]:
                self._constant(name, self._constants[name])
            ends = {"Y": [out], "MeanOut": [reads[3]], "VarianceOut": [reads[4]], "SavedMean": [f"{out}/mean"],
                    "SavedVariance": [f"{out}/variance"]}  # fmt: skip
            for name in (f"{out}/mean", f"{out}/variance"):
                programs.add_tensor(self._program, name, FLOAT, (-1,))
            attrs = {"epsilon": float(options.get("epsilon", 1e-5)), "is_test": True, "data_layout": "NCHW"}
            self._op("batch_norm", slots, ends, attrs, out, 4)
        elif kind in ("Relu", "Clip"):
            name = "relu" if kind == "Relu" else "relu6"
            self._op(name, {"X": [reads[0]]}, {"Out": [out]}, {"threshold": 6.0}, out, 4)
        elif kind == "Add":
            self._op("elementwise_add", {"X": [reads[0]], "Y": [reads[1]]}, {"Out": [out]}, {"axis": -1}, out, 4)
        elif kind in ("GlobalAveragePool", "ReduceMean"):
            attrs = {"pooling_type": "avg", "ksize": [1, 1], "adaptive": True, "strides": [1, 1], "paddings": [0, 0]}
            self._op("pool2d", {"X": [reads[0]]}, {"Out": [out]}, {**attrs, "data_format": "NCHW"}, out, 4)
        elif kind in ("Flatten", "Reshape"):
            attrs = {"start_axis": 1, "stop_axis": 3}
            self._op("flatten_contiguous_range", {"X": [reads[0]]}, {"Out": [out]}, attrs, out, 2)
        elif kind == "Gemm":
            weight = self._constants[reads[1]]
            self._constant(f"{out}/w", np.ascontiguousarray(weight.T if options.get("transB") else weight))
            self._op("matmul_v2", {"X": [reads[0]], "Y": [f"{out}/w"]}, {"Out": [f"{out}/product"]},
                     {"trans_x": False, "trans_y": False}, f"{out}/product", 2)  # fmt: skip
            self._constant(f"{out}/b", self._constants[reads[2]])
            slots = {"X": [f"{out}/product"], "Y": [f"{out}/b"]}
            self._op("elementwise_add", slots, {"Out": [out]}, {"axis": -1}, out, 2)
        else:
            raise NotImplementedError(f"{kind} is not among the ops of these networks")

    def _convolution(self, reads: Any, out: str, options: Any) -> None:
        weight = self._constants[reads[1]]
        groups = int(options.get("group", 1))
        self._constant(reads[1], weight)
        attrs = {
            "strides": list(options.get("strides", [1, 1])),
            "paddings": list(options.get("pads", [0, 0, 0, 0]))[:2],
            "dilations": list(options.get("dilations", [1, 1])),
            "groups": groups,
            "data_format": "NCHW",
            "padding_algorithm": "EXPLICIT",
        }
        kind = "depthwise_conv2d" if groups > 1 and weight.shape[1] == 1 else "conv2d"
        inner = f"{out}/unbiased" if len(reads) > 2 else out
        self._op(kind, {"Input": [reads[0]], "Filter": [reads[1]]}, {"Output": [inner]}, attrs, inner, 4)
        if len(reads) > 2:
            self._constant(reads[2], self._constants[reads[2]])
            slots = {"X": [inner], "Y": [reads[2]]}
            self._op("elementwise_add", slots, {"Out": [out]}, {"axis": 1}, out, 4)

    def _constant(self, name: str, array: Any) -> None:
        self.written[name] = np.asarray(array, np.float32)
        programs.add_tensor(self._program, name, FLOAT, array.shape, constant=True)

    def _op(self, kind: str, inputs: Any, outputs: Any, attrs: Any, out: str, rank: int) -> None:
        programs.add_tensor(self._program, out, FLOAT, (-1,) * rank)
        # Paddle's own tool reads the role of each op: 0 is forward.
        self.ops.append(programs.new_op(kind, inputs, outputs, {**attrs, "op_role": 0}))


class _ConvNorm(paddle.nn.Layer):
    """A convolution with batch normalization, and Relu unless it is linear."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, linear: bool = False):
        super().__init__()
        self.conv = paddle.nn.Conv2D(inputs, outputs, size, stride, size // 2, groups=groups, bias_attr=False)
        self.norm = paddle.nn.BatchNorm2D(outputs)
        self.act = None if linear else paddle.nn.ReLU()

    def forward(self, x: Any) -> Any:
        y = self.norm(self.conv(x))
        return y if self.act is None else self.act(y)


class _Bottleneck(paddle.nn.Layer):
    """A block of ResNet-50."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.first = _ConvNorm(inputs, width, 1)
        self.second = _ConvNorm(width, width, 3, stride)
        self.third = _ConvNorm(width, 4 * width, 1, linear=True)
        past = stride != 1 or inputs != 4 * width
        self.past = _ConvNorm(inputs, 4 * width, 1, stride, linear=True) if past else None
        self.act = paddle.nn.ReLU()

    def forward(self, x: Any) -> Any:
        return self.act(self.third(self.second(self.first(x))) + (x if self.past is None else self.past(x)))


def resnet50() -> Any:
    """ResNet-50's architecture with random weights."""
    blocks: list[Any] = [_ConvNorm(3, 64, 7, 2), paddle.nn.MaxPool2D(3, 2, 1)]
    inputs = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for place in range(count):
            blocks.append(_Bottleneck(inputs, width, stride if place == 0 else 1))
            inputs = 4 * width
    return paddle.nn.Sequential(
        *blocks, paddle.nn.AdaptiveAvgPool2D(1), paddle.nn.Flatten(), paddle.nn.Linear(inputs, 1000)
    )


def mobilenet_v1() -> Any:
    """MobileNet-V1's architecture with random weights."""
    blocks: list[Any] = [_ConvNorm(3, 32, 3, 2)]
    inputs = 32
    wide = [(512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for outputs, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), *wide):
        blocks += [_ConvNorm(inputs, inputs, 3, stride, inputs), _ConvNorm(inputs, outputs, 1)]
        inputs = outputs
    return paddle.nn.Sequential(
        *blocks, paddle.nn.AdaptiveAvgPool2D(1), paddle.nn.Flatten(), paddle.nn.Linear(inputs, 1000)
    )


def saved(layer: Any, prefix: Path) -> Path:
    """The program of a layer whose normalizations have seen one batch."""
    layer.train()
    layer(paddle.to_tensor(np.random.default_rng(0).normal(size=(4, 3, 224, 224)).astype(np.float32)))
    layer.eval()
    with quiet(), old_representation():
        paddle.jit.save(layer, str(prefix), input_spec=[paddle.static.InputSpec([None, 3, 224, 224], "float32", "x")])
    return prefix.with_name(f"{prefix.name}.pdmodel")
