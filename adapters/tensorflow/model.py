"""A model as the adapter holds it, and its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from autotune.adapter import TensorSpec
from autotune.adapters.tensorflow.graph import DTYPES, Graph, free_shape_of, text
from autotune.adapters.tensorflow.ops import QuantizableOp, quantizable_ops
from autotune.batch import BatchAxes
from autotune.config import Precision

_CACHED = ("graph", "ops")


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorFlowModel:
    """The bytes of a ``.tflite`` file, and what the adapter knows of it.

    Attributes:
        content: The file. Where metadata was written into it, it is that of the file as it was read.
        told: Notes for the user as soon as the model is read or made, a line each.
        batch_axes: Which axes count samples; None: what the shapes of inputs and outputs declare.
        asked: By op of a candidate that is not to be fp32: what it is to compute in. Empty for a user's model.
    """

    content: bytes
    told: tuple[str, ...] = ()
    batch_axes: BatchAxes | None = None
    asked: Mapping[str, Precision] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, a line each."""
        return self.told

    @cached_property
    def graph(self) -> Graph:
        """The file's graph, for reading. Whoever changes one reads the content anew."""
        return Graph(self.content)

    @cached_property
    def ops(self) -> tuple[QuantizableOp, ...]:
        """The ops that a config chooses for."""
        return tuple(quantizable_ops(self.graph))

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that depend on the graph and its constants, and not on metadata or generated names."""
        return graph_fingerprint(self.graph, [*self.inputs, *self.outputs])

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return len(self.content)

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in graph order."""
        return _specs(self.graph, self.graph.inputs, "inputs")

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs in graph order."""
        return _specs(self.graph, self.graph.outputs, "outputs")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _CACHED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def graph_fingerprint(graph: Graph, ends: list[TensorSpec]) -> str:
    """A hash of ops, options, edges and constants. Names are left out but for those of inputs and outputs.

    Converters number names, so that one model converted twice has other ones.
    """
    digest = hashlib.sha256(repr([(spec.name, spec.shape) for spec in ends]).encode())
    for subgraph in graph.model.subgraphs:
        digest.update(repr(([int(n) for n in subgraph.inputs], [int(n) for n in subgraph.outputs])).encode())
        for tensor in subgraph.tensors or []:
            scheme = tensor.quantization
            scales = None if scheme is None else (_listed(scheme.scale), _listed(scheme.zeroPoint))
            digest.update(repr((tensor.type, _listed(tensor.shape), _listed(tensor.shapeSignature), scales)).encode())
            data = graph.model.buffers[tensor.buffer].data
            digest.update(b"" if data is None else bytes(data))
        for operator in subgraph.operators or []:
            code = graph.model.operatorCodes[operator.opcodeIndex]
            options = vars(operator.builtinOptions) if operator.builtinOptions is not None else {}
            told = (code.builtinCode, code.version, _listed(operator.inputs), _listed(operator.outputs))
            digest.update(repr((told, sorted((key, _plain(value)) for key, value in options.items()))).encode())
            digest.update(bytes(operator.customOptions or b"") if operator.customOptions is not None else b"")
    return digest.hexdigest()[:16]


def _listed(values: Any) -> list[Any] | None:
    return None if values is None else [each.item() if isinstance(each, np.generic) else each for each in values]


def _plain(value: Any) -> str:
    return repr(_listed(value)) if isinstance(value, (list, tuple, np.ndarray)) else repr(value)


def _specs(graph: Graph, places: list[int], side: str) -> tuple[TensorSpec, ...]:
    """Names are those of the signature where there is one for the main graph, as TensorFlow's own callers use them."""
    signatures = [each for each in graph.model.signatureDefs or [] if each.subgraphIndex == 0]
    named = {int(each.tensorIndex): text(each.name) for each in getattr(signatures[0], side)} if signatures else {}
    names = [named.get(place) or text(graph.tensors[place].name) for place in places]
    return tuple(
        TensorSpec(name=name, dtype=DTYPES[graph.tensors[place].type], shape=_shape(graph, place))
        for name, place in zip(names, places, strict=True)
    )


def _shape(graph: Graph, place: int) -> tuple[int | str | None, ...]:
    """A free first axis is the batch by TensorFlow's convention.

    ai-edge-quantizer declares no free axes of what a DEQUANTIZE writes: they are those of the integers that it reads.
    """
    shape = free_shape_of(graph.tensors[place])
    for operator in graph.operators:
        if None not in shape and int(operator.outputs[0]) == place and graph.kind(operator) == "DEQUANTIZE":
            shape = free_shape_of(graph.tensors[operator.inputs[0]])
    return ("batch", *shape[1:]) if shape and shape[0] is None else shape
