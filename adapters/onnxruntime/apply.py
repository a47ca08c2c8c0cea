"""Make the candidate that a config describes: static int8 by Q/DQ pairs, then the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx

from autotune.adapter import FakeQuantizedOp
from autotune.adapters.onnx.graph import Graph, is_external
from autotune.adapters.onnx.model import OnnxModel, spill
from autotune.adapters.onnx.quantized import is_pair
from autotune.adapters.onnx.rewriting import set_constants
from autotune.adapters.onnxruntime.choices.execution_options import finish
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp, quantizable_ops
from autotune.adapters.onnxruntime.dynamic.quantize import quantize_dynamically, supports_dynamic
from autotune.adapters.onnxruntime.dynamic.recurrent import quantize_lstms
from autotune.adapters.onnxruntime.half.convert import compute_in_half
from autotune.adapters.onnxruntime.half.kernels import HALF_TYPES
from autotune.adapters.onnxruntime.recipes.pipeline import Prepared, correct_constants, prepare_channels
from autotune.adapters.onnxruntime.residuals import keep_residuals_apart
from autotune.adapters.onnxruntime.static.fake_quantization import quantized_ops
from autotune.adapters.onnxruntime.static.insertion import insert_pairs
from autotune.adapters.onnxruntime.static.keep_fp32 import keep_fp32
from autotune.adapters.onnxruntime.static.local_errors import errors_by_op
from autotune.adapters.onnxruntime.static.matmuls import read_originals, write_out_matmuls
from autotune.adapters.onnxruntime.static.placement import Placement, ScaleGroup, place
from autotune.adapters.onnxruntime.static.weights import quantize_weights, weight_grids
from autotune.adapters.onnxruntime.weight_only import (
    block_layers,
    quantize_weights_only,
    weight_only_grids,
    weight_only_precisions,
)
from autotune.algorithms import AffineParameters, activation_range, affine_parameters
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig, QuantizedType, TensorScheme
from autotune.errors import ApplyError


def apply_config(model: OnnxModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> OnnxModel:
    """The candidate that ``config`` describes; ``model`` stays as it is.

    A tensor has one scheme, as :class:`autotune.config.OpConfig` says, and with it go the tensors that share its scale.
    Two things are the same for every config, since anything else breaks the fusion into integer kernels: the range of a
    tensor that a Relu or Clip cuts lies within what that lets through, whatever the scheme's symmetry, and all int8 ops
    that are connected use the integer type of the first of them. A tensor whose values have one sign uses all integers
    of its type, whatever the scheme's symmetry: s8 with zero point -128 is u8 by another name.

    Raises:
        ApplyError: The config names an op that cannot be quantized, or a tensor has no statistics.
    """
    _require_offered(Graph(model.proto), config)
    if not config.ops:
        return dataclasses.replace(model, given=None)
    prepared = prepare_channels(dataclasses.replace(model, given=None), config, statistics)
    graph = Graph(prepared.model.proto)
    ops, _ = quantizable_ops(graph)
    placement = place(graph, ops, config)
    activations = _activation_parameters(placement, prepared)
    parameters_by_op = weight_grids(prepared.model, placement.ops, config, activations)
    block_grids = weight_only_grids(prepared.model, ops, config)
    layers, notes = block_layers(prepared.model, ops, config, block_grids)
    corrected = correct_constants(prepared, placement, config, activations, parameters_by_op, layers)
    corrected = dataclasses.replace(corrected, notes=(*corrected.notes, *notes))
    proto = onnx.ModelProto()
    proto.CopyFrom(corrected.proto)
    _bring_in(proto, corrected, graph, placement)
    quantize_weights(proto, corrected, placement.ops, config, parameters_by_op)
    if placement.ops:
        insert_pairs(proto, placement, _tensor_parameters(prepared.model, graph, placement, activations))
    given = {node.name for node in model.proto.graph.node if is_pair(node)}
    read_originals(proto, {op.name for op in placement.ops} | placement.followers, given)
    write_out_matmuls(proto, placement.ops, given)
    quantize_dynamically(proto, corrected, ops, config)
    quantize_lstms(proto, corrected, ops, config)
    quantize_weights_only(proto, corrected, ops, block_grids)
    half_notes = compute_in_half(proto, corrected, ops, config, prepared.statistics)
    keep_fp32(proto, given)
    keep_residuals_apart(proto)
    external_dir, folder = spill(proto, corrected.external_dir)
    candidate = dataclasses.replace(
        corrected,
        proto=proto,
        external_dir=external_dir,
        folder=folder or corrected.folder,
        notes=(*corrected.notes, *half_notes),
    )
    return finish(candidate, config.recipe)


def local_errors(model: OnnxModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> dict[str, float]:
    """How exact each int8 op of a config is by itself; see :class:`autotune.adapter.LocalErrors`."""
    model = dataclasses.replace(model, given=None)
    graph = Graph(model.proto)
    placement = place(graph, quantizable_ops(graph)[0], config)
    prepared = Prepared(model=model, reference=model, statistics=statistics, ranges={})
    return errors_by_op(model, placement, _activation_parameters(placement, prepared), statistics)


def fake_quantization(
    model: OnnxModel, config: QuantizationConfig, statistics: CalibrationStatistics
) -> dict[str, FakeQuantizedOp]:
    """The grids that each int8 op of a config reads and writes; see :class:`autotune.adapter.FakeQuantization`."""
    model = dataclasses.replace(model, given=None)
    graph = Graph(model.proto)
    _require_offered(graph, config)
    placement = place(graph, quantizable_ops(graph)[0], config)
    prepared = Prepared(model=model, reference=model, statistics=statistics, ranges={})
    activations = _activation_parameters(placement, prepared)
    return quantized_ops(model, placement, _tensor_parameters(model, graph, placement, activations), config)


def _require_offered(graph: Graph, config: QuantizationConfig) -> None:
    """See that a config names ops of the model, and for each a precision that it has a kernel for."""
    ops, _ = quantizable_ops(graph)
    unknown = sorted(set(config.ops) - {op.name for op in ops})
    if unknown:
        raise ApplyError(f"A config may name ops of the model's space only, but names {', '.join(unknown[:3])}")
    for op in ops:
        precision = config[op.name].precision
        offered = {Precision.FP32, *weight_only_precisions(op, graph)}
        offered |= {Precision.INT8} if op.static else set()
        offered |= {Precision.INT8_DYNAMIC} if supports_dynamic(op, graph) else set()
        offered |= set(HALF_TYPES)  # ONNX Runtime refuses the model where it has no kernel
        if precision not in offered:
            raise ApplyError(
                f"An op may compute in what ONNX Runtime has a kernel for, but {op.name!r} ({op.node.op_type}) is to "
                f"be in {precision}. It offers {', '.join(sorted(offered))}"
            )


def _activation_parameters(placement: Placement, prepared: Prepared) -> dict[str, AffineParameters]:
    """By tensor; tensors that share a scale share the parameters."""
    return {
        name: parameters
        for group in {id(group): group for group in placement.groups.values()}.values()
        for parameters in [_group_parameters(group, prepared)]
        for name in group.tensors
    }


def _tensor_parameters(
    model: OnnxModel, graph: Graph, placement: Placement, activations: Mapping[str, AffineParameters]
) -> dict[str, tuple[AffineParameters, QuantizedType]]:
    """Parameters and integer type of every tensor that is quantized, constants that are read like activations too."""
    found = {name: (parameters, placement.groups[name].dtype) for name, parameters in activations.items()}
    for op in placement.ops:
        found.update(_constant_parameters(op, model, graph, placement))
    return found


def _bring_in(proto: onnx.ModelProto, model: OnnxModel, graph: Graph, placement: Placement) -> None:
    """Take constants that the quantizer reads out of their files, and give each int8 op a bias of its own.

    The quantizer leaves a bias that several ops read to all of them as integers, to those in fp32 too.
    """
    wanted = {name for op in placement.ops for name in (op.bias, *op.constants) if name}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.name in wanted}
    set_constants(proto, {name: model.tensor(tensor) for name, tensor in tensors.items() if is_external(tensor)})
    nodes = {node.name: node for node in proto.graph.node}
    for op in placement.ops:
        if op.bias is not None and not graph.read_once(op.bias):
            own = proto.graph.initializer.add()
            own.CopyFrom(tensors[op.bias])
            own.name = f"{op.bias}/{op.name}"
            nodes[op.name].input[2] = own.name


def _group_parameters(group: ScaleGroup, prepared: Prepared) -> AffineParameters:
    observed = prepared.statistics.tensors.get(group.observed)
    if observed is None:
        raise ApplyError(
            f"Every quantized tensor needs statistics, but {group.observed!r} has none. "
            "Calibrate this model anew: the statistics belong to another one, or no batch reaches this tensor"
        )
    scheme, algorithm = group.choice.activation, group.choice.calibration
    assert scheme is not None
    assert algorithm is not None
    if group.low > -np.inf or group.high < np.inf or observed.minimum >= 0.0 or observed.maximum <= 0.0:
        # By its sign: half of a symmetric range would stay unused.
        scheme = dataclasses.replace(scheme, symmetric=False)
    low, high = prepared.ranges.get(group.observed) or activation_range(observed, algorithm, scheme)
    scheme = dataclasses.replace(scheme, dtype=group.dtype)
    return affine_parameters(max(low, group.low), min(high, group.high), scheme)


def _constant_parameters(
    op: QuantizableOp, model: OnnxModel, graph: Graph, placement: Placement
) -> dict[str, tuple[AffineParameters, QuantizedType]]:
    """Parameters of the constants that an op reads like activations: their exact range, in its integer type."""
    dtype = placement.groups[op.activations[0]].dtype
    found = {}
    for name in op.constants:
        values = model.tensor(graph.initializers[name])
        if not np.isfinite(values).all():
            raise ApplyError(
                f"Constants must be finite to be quantized, but {name!r} is not: leave {op.name!r} in fp32"
            )
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        parameters = affine_parameters(min(low, 0.0), max(high, 0.0), TensorScheme(dtype=dtype))
        found[name] = (parameters, dtype)
    return found
