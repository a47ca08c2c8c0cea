"""Which ops of a quantized model can saturate on x86 CPUs without VNNI, where two products are summed in 16 bits."""

from __future__ import annotations

from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.candidate import names_by_weight
from autotune.adapters.paddle.model import LARGEST_INTEGER, PaddleModel
from autotune.adapters.paddle.ops import CONVOLUTIONS
from autotune.adapters.paddle.runtime import op_of
from autotune.adapters.paddle.tensors import Tensors
from autotune.adapters.paddle.weights import largest_pair
from autotune.algorithms.saturation import MOST


def saturating_ops(model: PaddleModel) -> tuple[str, ...]:
    """The names of the ops at risk, in graph order: those that multiply u8 by weights whose neighbours are large.

    s8 activations are no risk: oneDNN halves the weights for them where it has to. Nor are depthwise convolutions,
    whose products are summed in 32 bits.
    """
    program = model.program
    names = names_by_weight(model)
    tensors = Tensors(program, model.constants)
    largest = {
        programs.written(op, "Y"): int(programs.attribute(op, LARGEST_INTEGER, 255))
        for op in programs.ops(program)
        if op.type == "quantize_linear"
    }
    found = []
    for op in programs.ops(program):
        weight = f"{op_of(programs.read(op, 'Filter'))}/integers"
        if op.type not in CONVOLUTIONS or weight not in model.constants:
            continue
        integers = model.constants[weight]
        source = programs.read(op, "Input").removesuffix("/quantized")
        depthwise = int(programs.attribute(op, "groups", 1)) > 1 and integers.shape[1] == 1
        if depthwise or not tensors.unsigned(source):
            continue
        if largest_pair(integers) * largest.get(f"{source}/integers", 255) > MOST:
            found.append(names[op_of(weight)])
    return tuple(found)
