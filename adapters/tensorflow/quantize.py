"""Make the candidate that a config describes: how each op is quantized stands in :func:`apply_config`."""

from __future__ import annotations

from autotune.adapters.tensorflow.activations import ActivationGrids
from autotune.adapters.tensorflow.candidate import Candidate
from autotune.adapters.tensorflow.graph import Graph
from autotune.adapters.tensorflow.model import TensorFlowModel
from autotune.adapters.tensorflow.ops import followed
from autotune.adapters.tensorflow.patch import ask_integers_for_shapes, keep_free_axes, put_integers
from autotune.adapters.tensorflow.recipe_entries import Names, quantized
from autotune.adapters.tensorflow.recipes import correct_constants, prepare_channels
from autotune.adapters.tensorflow.space import offered
from autotune.adapters.tensorflow.weights import weight_grid
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig
from autotune.errors import ApplyError
from autotune.options import require_declared


def apply_config(
    model: TensorFlowModel, config: QuantizationConfig, statistics: CalibrationStatistics
) -> TensorFlowModel:
    """The candidate that ``config`` describes; ``model`` stays as it is.

    ai-edge-quantizer gets an entry of its recipe for each op, and a range for each tensor that becomes integers. An
    int8 op then reads and writes integers, with a QUANTIZE or DEQUANTIZE op where the other side is not int8. Ops that
    pass integers on follow their neighbours. The integers of weights and biases are then replaced by those that the
    config's algorithm and recipe choose.

    Raises:
        ApplyError: The config names an op that cannot be quantized, or a tensor has no statistics.
    """
    require_declared(config.recipe.options, ())
    _require_offered(model, config)
    if not config.ops:
        return model
    prepared = prepare_channels(model, config, statistics)
    graph = Graph(prepared.content)
    chosen = [op for op in model.ops if config[op.name].precision is Precision.INT8]
    following = followed(graph, chosen)
    activations = ActivationGrids(prepared.statistics, prepared.ranges)
    activations.choose(chosen, following, config)
    grids = {
        op.name: (op, weight_grid(graph, op, config[op.name], config.recipe, trained=config.trained))
        for op in chosen
        if op.weight is not None
    }
    constants, notes = correct_constants(model, prepared, grids, activations.tensors(), config.recipe)
    names = Names(graph)
    entries = [(op, config[op.name].precision, config[op.name].weight) for op in model.ops if op.name in config.ops]
    entries += [(op, Precision.INT8, None) for op in following]
    made = quantized(graph, entries, activations.ends())
    for name, (op, grid) in grids.items():
        put_integers(made, op, grid, *constants[name])
    ask_integers_for_shapes(made)
    keep_free_axes(made)
    names.restore(made)
    return Candidate(
        content=made.to_bytes(),
        told=(*model.told, *prepared.notes, *notes),
        batch_axes=model.batch_axes,
        asked={op.name: config[op.name].precision for op in model.ops if op.name in config.ops},
        outputs_of={op.name: op.outputs for op in model.ops},
        followers=tuple(op.outputs for op in following),
    )


def _require_offered(model: TensorFlowModel, config: QuantizationConfig) -> None:
    """See that a config names ops of the model, and precisions that they have here."""
    ops = {op.name: op for op in model.ops}
    if unknown := sorted(set(config.ops) - set(ops)):
        raise ApplyError(f"A config may name ops of the model's space only, but names {', '.join(unknown[:3])}")
    for name, choice in config.ops.items():
        if choice.precision not in offered(ops[name]):
            raise ApplyError(
                f"In LiteRT a {ops[name].kind} computes in {', '.join(offered(ops[name]))}, but {name!r} is to be in "
                f"{choice.precision}"
            )
