"""Make the candidate that a config describes: how each op is quantized stands in :func:`apply_config`."""

from __future__ import annotations

import dataclasses

from autotune.adapters.pytorch.grids import Grids
from autotune.adapters.pytorch.insertion import Writer
from autotune.adapters.pytorch.model import PytorchModel
from autotune.adapters.pytorch.recipes import correct_constants, prepare_channels, set_constants
from autotune.adapters.pytorch.space import computes_bf16
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig
from autotune.errors import ApplyError
from autotune.options import require_declared


def apply_config(model: PytorchModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> PytorchModel:
    """The candidate that ``config`` describes; ``model`` stays as it is.

    An int8 op reads its activations through a quantize and a dequantize node with the range that the config's algorithm
    finds in the statistics, or, where it is dynamic, with one that is found in every call; and its weight through a
    dequantize node of integers. Inductor makes one kernel of such an op, and of the activation and the residual sum
    behind it. A sum that a convolution's kernel takes over reads what the convolution wrote as it is, and its other
    side quantized. The steps of an LSTM or GRU are written out, each with one integer product. In bf16, an op reads its
    input and writes its output through a conversion.

    Raises:
        ApplyError: The config names an op that cannot be quantized or a precision that there is not, or a tensor has no
            statistics.
    """
    require_declared(config.recipe.options, ())
    _require_offered(model, config)
    if not config.ops:
        return model
    prepared = prepare_channels(model, config, statistics)
    chosen = [op for op in model.ops if config[op.name].precision is not Precision.FP32]
    grids = Grids(model, prepared, config)
    for op in chosen:
        if config[op.name].precision is not Precision.BF16:
            grids.choose(op)
    # Told before nodes come between them.
    reads_of = {op.name: grids.quantized_reads(op) for op in chosen if config[op.name].precision is Precision.INT8}
    constants, notes = correct_constants(model, prepared, config, grids.static, grids.tensors())
    set_constants(prepared.graph, constants)
    writer = Writer(prepared.graph)
    for op in chosen:
        precision = config[op.name].precision
        if precision is Precision.BF16:
            writer.convert(op)
        elif op.recurs:
            writer.unroll(op, grids.recurrent[op.name])
        elif precision is Precision.INT8_DYNAMIC:
            writer.quantize_dynamic(op, grids.dynamic[op.name])
        else:
            reads = {name: grids.activations[name] for name in reads_of[op.name]}
            writer.quantize(op, reads, grids.static.get(op.name))
    return dataclasses.replace(
        model,
        graph=writer.finished(),
        told=(*model.told, *prepared.notes, *notes),
        asked={op.name: config[op.name].precision for op in chosen},
    )


def _require_offered(model: PytorchModel, config: QuantizationConfig) -> None:
    """See that a config names ops of the model, and precisions that they have here."""
    if model.graph is None or model.asked:
        if config.ops:
            raise ApplyError(
                "A model that is quantized or compiled already cannot be quantized. Give the one it was made of"
            )
        return
    ops = {op.name: op for op in model.ops}
    if unknown := sorted(set(config.ops) - set(ops)):
        raise ApplyError(f"A config may name ops of the model's space only, but names {', '.join(unknown[:3])}")
    for name, choice in config.ops.items():
        offered = [] if ops[name].recurs else [Precision.INT8]
        offered += [Precision.INT8_DYNAMIC] if ops[name].kind == "Linear" or ops[name].recurs else []
        offered += [Precision.BF16] if ops[name].weight is not None and computes_bf16() else []
        if choice.precision not in (*offered, Precision.FP32):
            raise ApplyError(
                f"An op computes in {', '.join(offered)} or fp32 here, but {name!r} is to be in {choice.precision}"
            )
