"""A model as the adapter holds it, its two files, and its fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from autotune.adapter import TensorSpec
from autotune.batch import BatchAxes
from autotune.owned_folder import OwnedFolder

FLOAT32 = "f32"

FLOATS_KEY = "autotune_inference_precision"
"""Where a saved model says, in its ``rt_info``, what its ops that are not int8 were measured in."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenVinoModel:
    """An ``openvino.Model`` that nobody changes, and what the adapter knows of it.

    OpenVINO's own object cannot be pickled. This one travels as the bytes of the IR, whose two files are the XML of the
    graph and the weights.

    Attributes:
        graph: The model.
        told: Notes for the user as soon as the model is read or made, a line each.
        given: The user's model as it was before preparation; None where this is the user's own, or a candidate.
        file_bytes: Size of the file that a user gave; None where the model has none, or is a candidate.
        batch_axes: Which axes count samples; None: what the shapes of inputs and outputs declare.
        floats: Type in which ops compute that are not int8, as OpenVINO calls it: ``f32``, ``bf16`` or ``f16``. It is
            one for the whole model, and is asked for at load.
    """

    graph: ov.Model
    told: tuple[str, ...] = ()
    given: OpenVinoModel | None = None
    file_bytes: int | None = None
    batch_axes: BatchAxes | None = None
    floats: str = FLOAT32

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, a line each."""
        return self.told

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that depend on the graph and its weights, and not on generated names."""
        found = graph_fingerprint(self.graph)
        return found if self.floats == FLOAT32 else hashlib.sha256(f"{found} {self.floats}".encode()).hexdigest()[:16]

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in graph order."""
        return tuple(_spec(port, port.get_node().get_friendly_name()) for port in self.graph.inputs)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs in graph order."""
        sources = (port.get_node().input_value(0).get_node() for port in self.graph.outputs)
        pairs = zip(self.graph.outputs, sources, strict=True)
        return tuple(_spec(port, source.get_friendly_name()) for port, source in pairs)

    @cached_property
    def size_bytes(self) -> int:
        """Size of the user's file, or of both files of the IR."""
        return sum(map(len, self.files)) if self.file_bytes is None else self.file_bytes

    @cached_property
    def files(self) -> tuple[bytes, bytes]:
        """The IR: XML and weights."""
        return ir_files(self.graph)

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name not in ("graph", "files")}
        return {**kept, "files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, graph=read_ir(*state["files"]))


def ir_files(graph: ov.Model) -> tuple[bytes, bytes]:
    """The XML and the weights of a model, in its own precision."""
    with OwnedFolder() as folder:
        xml, weights = Path(folder) / "model.xml", Path(folder) / "model.bin"
        ov.serialize(graph, xml, weights)
        return xml.read_bytes(), weights.read_bytes()


def read_ir(xml: bytes, weights: bytes) -> ov.Model:
    """The model of an IR that lies in memory.

    Raises:
        RuntimeError: OpenVINO refuses it.
    """
    return ov.Core().read_model(xml, ov.Tensor(np.frombuffer(weights, np.uint8)) if weights else b"")


def graph_fingerprint(graph: ov.Model) -> str:
    """A hash of ops, attributes, edges and constants. Names are left out but for those of inputs and outputs.

    OpenVINO numbers what has no name, so that the XML of one model differs from process to process.
    """
    digest = hashlib.sha256()
    numbers: dict[str, int] = {}
    for number, node in enumerate(graph.get_ordered_ops()):
        numbers[node.get_name()] = number
        kind = node.get_type_name()
        reads = [(numbers[port.get_node().get_name()], port.get_index()) for port in node.input_values()]
        digest.update(repr((kind, reads)).encode())
        if kind == "Constant":
            digest.update(repr((node.get_element_type().to_string(), list(node.get_output_shape(0)))).encode())
            digest.update(np.ascontiguousarray(node.data).tobytes())
            continue
        digest.update(repr(sorted((key, repr(value)) for key, value in node.get_attributes().items())).encode())
        if kind == "Parameter":
            digest.update(f"{node.get_friendly_name()} {node.get_partial_shape()}".encode())
    return digest.hexdigest()[:16]


def _spec(port: Any, name: str) -> TensorSpec:
    names = sorted(port.get_names())
    rank = port.get_partial_shape()
    return TensorSpec(
        name=names[0] if names and name not in names else name,
        dtype=np.dtype(port.get_element_type().to_dtype()),
        shape=tuple(int(dim.get_length()) if dim.is_static else None for dim in rank),
    )
