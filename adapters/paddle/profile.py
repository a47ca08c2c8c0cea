"""The latency of each op: oneDNN's own log of whole models, matched to the ops of the program."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.candidate import by_op
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.ops import SHARING, QuantizableOp
from autotune.adapters.paddle.runtime import Probe, logged
from autotune.adapters.paddle.session import PaddleRunner
from autotune.adapters.paddle.tensors import Tensors, results_of

_CALLS = 16
_WARMUP = 3

_PASSING = SHARING | {"relu", "relu6", "elementwise_add", "concat"}
"""Ops that pass integers on, or that Paddle fuses into the convolution before them."""


def op_seconds(models: Sequence[PaddleModel], feeds: Feeds, execution: Execution) -> list[Mapping[str, float]]:
    """By model, by op: seconds of the kernel that the op became part of; the models are run in turn.

    Raises:
        ApplyError: Paddle refuses a model.
    """
    probes = [Probe(model, execution) for model in models]
    calls: list[dict[str, list[float]]] = [defaultdict(list) for _ in models]
    for number in range(_WARMUP + _CALLS):
        for model, probe, seconds in zip(models, probes, calls, strict=True):
            kernels, _ = probe.run(feeds)
            if number < _WARMUP:
                continue
            for name, kernel in by_op(model, kernels).items():
                seconds[name].append(kernel.seconds)
    return [{name: _typical(each) for name, each in seconds.items()} for seconds in calls]


def _typical(seconds: Sequence[float]) -> float:
    """The mean of the faster half: another process makes calls longer, never shorter."""
    return float(np.mean(sorted(seconds)[: max(1, len(seconds) // 2)]))


def conversion_seconds(sizes: Sequence[int], execution: Execution) -> Mapping[int, float]:
    """Seconds of turning a float32 tensor into integers, by its number of elements.

    Raises:
        ApplyError: Paddle refuses to.
    """
    found = {}
    for size in sorted(set(sizes)):
        runner = PaddleRunner(_conversion(size), execution)
        array = np.random.default_rng(0).random((1, 1, 1, size), np.float32)
        seconds = []
        for number in range(_WARMUP + _CALLS):
            lines = [line for line in logged(runner, {"x": array}) if line[1] == "reorder" and "src:f32" in line[3]]
            if number >= _WARMUP:
                seconds.append(sum(line[4] for line in lines if "dst:s8" in line[3]))
        found[size] = _typical(seconds)
    return found


def _conversion(size: int) -> PaddleModel:
    """A model that turns a tensor into integers and reads them with a convolution of one channel."""
    program = programs.empty()
    constants: dict[str, Array] = {
        "zero": np.zeros(1, np.float32),
        "scale": np.ones(1, np.float32),
        "weight": np.full((1, 1, 1, 1), 127, np.int8),
    }
    for name, array in constants.items():
        programs.add_tensor(program, name, array.dtype, array.shape, constant=True)
    for name in ("x", "integers", "quantized", "y"):
        programs.add_tensor(program, name, np.dtype(np.float32), (1, 1, 1, size))
    programs.add_tensor(program, "real", np.dtype(np.float32), (1, 1, 1, 1))
    attrs: dict[str, int | bool | str] = {"bit_length": 8, "is_test": True, "only_observer": False}
    read = {"Scale": ["scale"], "ZeroPoint": ["zero"]}
    convolution: dict[str, str | Sequence[int] | int] = {
        "strides": [1, 1],
        "paddings": [0, 0],
        "dilations": [1, 1],
        "groups": 1,
        "data_format": "NCHW",
        "padding_algorithm": "EXPLICIT",
        "quantization_type": "qat_with_weight",
    }
    made = [
        programs.new_op("quantize_linear", {"X": ["x"], **read}, {"Y": ["integers"]}, {**attrs, "quant_axis": -1}),
        programs.new_op(
            "dequantize_linear", {"X": ["integers"], **read}, {"Y": ["quantized"]}, {**attrs, "quant_axis": -1}
        ),
        programs.new_op("dequantize_linear", {"X": ["weight"], **read}, {"Y": ["real"]}, {**attrs, "quant_axis": 0}),
        programs.new_op("conv2d", {"Input": ["quantized"], "Filter": ["real"]}, {"Output": ["y"]}, convolution),
    ]
    program = programs.part(program, made, ["x"], ["y"])
    return PaddleModel(content=program.SerializeToString(), constants=constants)


def written_elements(
    model: PaddleModel, ops: Sequence[QuantizableOp], examples: Sequence[Feeds], execution: Execution
) -> dict[str, int]:
    """By op: how many values it writes for one sample; none where no sample was kept."""
    if not examples:
        return {}
    program = programs.part(
        model.program, programs.ops(model.program), [spec.name for spec in model.inputs], [op.output for op in ops]
    )
    exposed = PaddleModel(content=program.SerializeToString(), constants=model.constants)
    arrays = PaddleRunner(exposed, execution)(examples[0])
    return {op.name: int(array.size) for op, array in zip(ops, arrays, strict=True)}


def neighbours(model: PaddleModel, ops: Sequence[QuantizableOp]) -> dict[str, tuple[str, ...]]:
    """By op: the ops that read its output, directly or through what keeps the integers as they are."""
    tensors = Tensors(model.program, model.constants)
    names = {op.source: [each.name for each in ops if each.source == op.source] for op in ops}
    found: dict[str, tuple[str, ...]] = {}
    for op in ops:
        readers: dict[str, None] = {}
        pending, seen = [op.output], set()
        while pending:
            tensor = pending.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            readers.update(dict.fromkeys(names.get(tensor, [])))
            for reader in tensors.readers.get(tensor, []):
                if reader.type in _PASSING:
                    pending.extend(results_of(reader))
        found[op.name] = tuple(readers)
    return found
