"""Make the candidate that a config describes: static int8 through ONNX Runtime's own QDQ quantizer, then the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from autotune.adapters.onnxruntime.dynamic import quantize_dynamically, supports_dynamic
from autotune.adapters.onnxruntime.execution import finish
from autotune.adapters.onnxruntime.graph import Graph, is_external
from autotune.adapters.onnxruntime.half import compute_in_half
from autotune.adapters.onnxruntime.half_kernels import HALF_TYPES
from autotune.adapters.onnxruntime.keep_fp32 import keep_fp32
from autotune.adapters.onnxruntime.model import OnnxModel, spill
from autotune.adapters.onnxruntime.ops import QuantizableOp, quantizable_ops
from autotune.adapters.onnxruntime.placement import Placement, ScaleGroup, place
from autotune.adapters.onnxruntime.products import read_originals, write_out_products
from autotune.adapters.onnxruntime.quantized import is_pair
from autotune.adapters.onnxruntime.recipes.pipeline import Prepared, correct_constants, prepare_channels
from autotune.adapters.onnxruntime.recurrent import quantize_lstms
from autotune.adapters.onnxruntime.residuals import keep_residuals_apart
from autotune.adapters.onnxruntime.rewriting import hide_passed_on, show_passed_on, sort_nodes
from autotune.adapters.onnxruntime.weight_only import (
    block_layers,
    quantize_weights_only,
    weight_only_grids,
    weight_only_precisions,
)
from autotune.adapters.onnxruntime.weights import quantize_weights, weight_grids
from autotune.calibration import (
    AffineParameters,
    CalibrationStatistics,
    activation_range,
    affine_parameters,
)
from autotune.config import Precision, QuantizationConfig, QuantizedType, TensorScheme
from autotune.errors import ApplyError

_QUANT_TYPES = {QuantizedType.U8: QuantType.QUInt8, QuantizedType.S8: QuantType.QInt8}
_DTYPES = {QuantizedType.U8: np.dtype(np.uint8), QuantizedType.S8: np.dtype(np.int8)}

_Overrides = dict[str, list[dict[str, Any]]]


class _Quantizer(QDQQuantizer):  # type: ignore[misc]  # ONNX Runtime ships no types
    """ONNX Runtime's quantizer, told which tensors stay fp32."""

    def __init__(self, proto: onnx.ModelProto, quantized: set[str], nodes: list[str], overrides: _Overrides) -> None:
        self._quantized = quantized
        super().__init__(
            proto,
            per_channel=False,  # the overrides say which weights are
            reduce_range=False,  # the overrides' scales account for it
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            # Scales come from the overrides; the quantizer wants a range for every tensor all the same.
            tensors_range={
                name: TensorData(lowest=np.float32(0), highest=np.float32(1)) for name in overrides if name in quantized
            },
            nodes_to_quantize=nodes,
            nodes_to_exclude=[],
            op_types_to_quantize=list({node.op_type for node in proto.graph.node}),
            extra_options={
                "TensorQuantOverrides": overrides,
                "ForceQuantizeNoInputCheck": True,  # `nodes` names those followers alone that have something to follow
                "QDQDisableWeightAdjustForInt32Bias": True,  # done already, for all channels at once
            },
        )

    def quantize_activation_tensor(self, tensor_name: str) -> None:
        if tensor_name in self._quantized:
            super().quantize_activation_tensor(tensor_name)

    def quantize_output_same_as_input(self, output_name: str, input_name: str, node_name: str) -> None:  # noqa: ARG002
        # What shares a scale has been decided; an AveragePool, for one, does better with a scale of its own.
        self.quantize_activation_tensor(output_name)


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
        result = _quantize(proto, placement, _overrides(prepared.model, graph, placement, activations))
    else:
        result = proto
    given = {node.name for node in model.proto.graph.node if is_pair(node)}
    read_originals(result, {op.name for op in placement.ops} | placement.followers, given)
    write_out_products(result, placement.ops, given)
    quantize_dynamically(result, corrected, ops, config)
    quantize_lstms(result, corrected, ops, config)
    quantize_weights_only(result, corrected, ops, block_grids)
    half_notes = compute_in_half(result, corrected, ops, config, prepared.statistics)
    keep_fp32(result, given)
    keep_residuals_apart(result)
    external_dir, folder = spill(result, corrected.external_dir)
    candidate = dataclasses.replace(
        corrected,
        proto=result,
        external_dir=external_dir,
        folder=folder or corrected.folder,
        notes=(*corrected.notes, *half_notes),
    )
    return finish(candidate, config.recipe)


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


def _overrides(
    model: OnnxModel, graph: Graph, placement: Placement, activations: Mapping[str, AffineParameters]
) -> _Overrides:
    """What ONNX Runtime's quantizer is told of every tensor that it quantizes."""
    overrides: _Overrides = {
        name: [_override(parameters, placement.groups[name].dtype)] for name, parameters in activations.items()
    }
    for op in placement.ops:
        overrides.update(_constant_overrides(op, model, graph, placement))
    return overrides


def _quantize(proto: onnx.ModelProto, placement: Placement, overrides: _Overrides) -> onnx.ModelProto:
    """Insert Q/DQ pairs; weights have theirs already."""
    # Types are in place already; this is how ONNX Runtime's quantizer recognises that.
    metadata = list(proto.metadata_props)
    producer = proto.producer_name, proto.producer_version
    proto.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    nodes = [op.name for op in placement.ops] + sorted(placement.followers)
    quantized = set(placement.groups) | {name for op in placement.ops for name in op.constants}
    passed_on, constants = hide_passed_on(proto)
    try:
        quantizer = _Quantizer(proto, quantized, nodes, overrides)
        result: onnx.ModelProto = quantizer.quantize_model()
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise ApplyError(f"ONNX Runtime's quantizer refuses the config: {error}") from error
    sort_nodes(result)
    show_passed_on(result, passed_on, constants)
    del result.metadata_props[:]
    result.metadata_props.extend(metadata)
    result.producer_name, result.producer_version = producer
    return result


def _bring_in(proto: onnx.ModelProto, model: OnnxModel, graph: Graph, placement: Placement) -> None:
    """Take constants that the quantizer reads out of their files, and give each int8 op a bias of its own.

    The quantizer leaves a bias that several ops read to all of them as integers, to those in fp32 too.
    """
    wanted = {name for op in placement.ops for name in (op.bias, *op.constants) if name}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.name in wanted}
    for tensor in tensors.values():
        if is_external(tensor):
            tensor.CopyFrom(numpy_helper.from_array(model.tensor(tensor), tensor.name))
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


def _override(parameters: AffineParameters, dtype: QuantizedType) -> dict[str, Any]:
    return {
        "quant_type": _QUANT_TYPES[dtype],
        "scale": np.asarray(parameters.scale, np.float32).reshape(()),
        "zero_point": np.asarray(parameters.zero_point).astype(_DTYPES[dtype]).reshape(()),
    }


def _constant_overrides(op: QuantizableOp, model: OnnxModel, graph: Graph, placement: Placement) -> _Overrides:
    """Parameters of the constants that an op reads like activations: their exact range, in its integer type."""
    dtype = placement.groups[op.activations[0]].dtype
    overrides: _Overrides = {}
    for name in op.constants:
        values = model.tensor(graph.initializers[name])
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        parameters = affine_parameters(min(low, 0.0), max(high, 0.0), TensorScheme(dtype=dtype))
        overrides[name] = [_override(parameters, dtype)]
    return overrides
