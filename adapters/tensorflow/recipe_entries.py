"""The request to ai-edge-quantizer: an entry of its recipe for each op, with ranges from this project."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_quantizer import qtyping, quantizer
from ai_edge_quantizer.utils.tfl_flatbuffer_utils import TFL_OP_CODE_TO_NAME

from autotune.adapters.tensorflow.graph import Graph, text
from autotune.adapters.tensorflow.ops import QuantizableOp
from autotune.adapters.tensorflow.unfuse import tensor_key
from autotune.config import Granularity, Precision, TensorScheme
from autotune.errors import ApplyError


class Names:
    """Gives every tensor of a graph a short name of its own, and puts the file's names back into what was made of it.

    The quantizer finds ops by a regular expression over what they write, and keeps ranges by tensors' names. In a file,
    names may repeat, and one may begin as another does.

    Args:
        graph: The graph, whose tensors are renamed in place.
    """

    def __init__(self, graph: Graph) -> None:
        self._names: dict[str, Any] = {}
        for index, subgraph in enumerate(graph.model.subgraphs):
            for place, tensor in enumerate(subgraph.tensors or []):
                short = tensor_key(place) if index == 0 else f"graph_{index}_{place}"
                self._names[short] = tensor.name
                tensor.name = short.encode()

    def restore(self, graph: Graph) -> None:
        """Give tensors the file's names; what was appended to a name stays behind it."""
        for subgraph in graph.model.subgraphs:
            for tensor in subgraph.tensors or []:
                short, rest = split(text(tensor.name))
                if short in self._names:
                    before = text(self._names[short])
                    tensor.name = f"{before}{rest}".encode()


def split(name: str) -> tuple[str, str]:
    """A short name, and what the quantizer appended to it."""
    found = re.match(r"(?:tensor|graph_\d+)_\d+", name)
    return (found[0], name[found.end() :]) if found else (name, "")


def quantized(
    graph: Graph,
    entries: Sequence[tuple[QuantizableOp, Precision, TensorScheme | None]],
    ends: Mapping[str, tuple[float, float]],
) -> Graph:
    """The graph in which the given ops are quantized, with the names that :class:`Names` gives.

    Args:
        graph: The fp32 graph with short names.
        entries: By op that is to be quantized: its precision and the scheme of its weight.
        ends: ``(low, high)`` of the tensors that become integers, by key.

    Raises:
        ApplyError: ai-edge-quantizer refuses an op or a choice.
    """
    made = quantizer.Quantizer(graph.to_bytes())
    ranges = {
        key: {"min": np.array([low], np.float32), "max": np.array([high], np.float32)}
        for key, (low, high) in ends.items()
    }
    try:
        for op, precision, weight in entries:
            code = graph.model.operatorCodes[graph.operators[op.place].opcodeIndex]
            made.update_quantization_recipe(
                regex=f"^{''.join(f'{tensor_key(place)};' for place in op.outputs)}$",
                operation_name=TFL_OP_CODE_TO_NAME[max(code.builtinCode, code.deprecatedBuiltinCode)],
                op_config=_op_config(precision, weight),
            )
        # It draws a progress bar for larger models whatever it is told.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            # It makes an interpreter that keeps all tensors, of which LiteRT warns, to see that no range is missing.
            warnings.filterwarnings("ignore", message=".*experimental_preserve_all_tensors.*")
            result = made.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ApplyError(f"ai-edge-quantizer refuses the config: {str(error).strip().splitlines()[0]}") from error
    assert result.quantized_model is not None
    return Graph(bytes(result.quantized_model))


def _op_config(precision: Precision, weight: TensorScheme | None) -> Any:
    per_tensor = weight is not None and weight.granularity is Granularity.PER_TENSOR
    weights = qtyping.TensorQuantizationConfig(
        num_bits=8,
        symmetric=True,
        granularity=qtyping.QuantGranularity.TENSORWISE if per_tensor else qtyping.QuantGranularity.CHANNELWISE,
    )
    if precision is Precision.INT8:
        # A symmetric range is one whose ends say so.
        activations = qtyping.TensorQuantizationConfig(
            num_bits=8, symmetric=False, granularity=qtyping.QuantGranularity.TENSORWISE
        )
        return qtyping.OpQuantizationConfig(
            activation_tensor_config=activations,
            weight_tensor_config=weights,
            compute_precision=qtyping.ComputePrecision.INTEGER,
        )
    dynamic = precision is Precision.INT8_DYNAMIC
    return qtyping.OpQuantizationConfig(
        weight_tensor_config=weights,
        compute_precision=qtyping.ComputePrecision.INTEGER if dynamic else qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=not dynamic,
    )
