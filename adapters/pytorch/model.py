"""A model as the adapter holds it: a graph that runs as it is, or a package that was compiled from one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import fx

from autotune.adapter import TensorSpec
from autotune.adapters.pytorch.graph import array, graph_fingerprint, is_tensor
from autotune.adapters.pytorch.ops import QuantizableOp
from autotune.adapters.pytorch.package import lines_on_kernels, package_bytes
from autotune.adapters.pytorch.quiet import quiet
from autotune.adapters.pytorch.stored import restored_graph, stored_graph
from autotune.batch import BatchAxes
from autotune.config import Precision


@dataclass(frozen=True, kw_only=True, eq=False)
class PytorchModel:
    """An exported program that nobody changes, and what the adapter knows of it.

    Attributes:
        graph: Flat; None for a model that was loaded from a package.
        package: Bytes of the package that this was loaded from; None for all others.
        inputs: In graph order.
        outputs: In graph order.
        example: Inputs to export the graph with, in graph order.
        ops: Those that can be quantized; none of a candidate.
        told: Notes for the user, a line each.
        asked: By op of a candidate that is not to be fp32: what it is to compute in.
        batch_axes: Which axes count samples; None: what the shapes of inputs and outputs declare.
        identity: Fingerprint of a model that was loaded from a package.
    """

    graph: fx.GraphModule | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    package: bytes | None = None
    example: tuple[torch.Tensor, ...] = ()
    ops: tuple[QuantizableOp, ...] = ()
    told: tuple[str, ...] = ()
    asked: Mapping[str, Precision] = field(default_factory=dict)
    batch_axes: BatchAxes | None = None
    identity: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that depend on the graph, its constants and which dimensions are free."""
        if self.identity is not None:
            return self.identity
        assert self.graph is not None
        free = [[dim if isinstance(dim, int) else None for dim in spec.shape] for spec in self.inputs]
        kinds = [spec.dtype.name for spec in self.inputs]
        return hashlib.sha256(f"{graph_fingerprint(self.graph)} {kinds} {free}".encode()).hexdigest()[:16]

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The graph as a program, with the dimensions of its inputs as free as they were."""
        assert self.graph is not None
        free = torch.export.Dim.DYNAMIC
        shapes = tuple(
            {axis: free for axis, dim in enumerate(spec.shape) if not isinstance(dim, int)} or None
            for spec in self.inputs
        )
        with quiet(), torch.no_grad():
            return torch.export.export(self.graph, self.example, dynamic_shapes=shapes)

    @property
    def size_bytes(self) -> int:
        """Size of the package; of the constants alone while there is none, since compiling one takes seconds."""
        return package_bytes(self)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, also on the ops that Inductor leaves in fp32, once it has compiled the model."""
        return (*self.told, *lines_on_kernels(self))

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name not in ("graph", "program")}
        stored = None if self.graph is None else stored_graph(self.graph)
        return {**kept, "fingerprint": self.fingerprint, "stored": stored}

    def __setstate__(self, state: dict[str, Any]) -> None:
        stored = state.pop("stored")
        self.__dict__.update(state, graph=None if stored is None else restored_graph(stored))


def input_specs(graph: fx.GraphModule) -> tuple[TensorSpec, ...]:
    """The inputs of a flat graph."""
    return tuple(_spec(node, str(node.target)) for node in graph.graph.nodes if node.op == "placeholder")


def output_specs(graph: fx.GraphModule) -> tuple[TensorSpec, ...]:
    """The outputs of a flat graph, each by the name of the node that writes it."""
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    return tuple(_spec(node, node.name) for node in output.args[0])


def _spec(node: fx.Node, name: str) -> TensorSpec:
    assert is_tensor(node)
    value = node.meta["val"]
    kind = array(torch.zeros((), dtype=value.dtype)).dtype
    return TensorSpec(
        name=name,
        dtype=np.dtype(kind),
        shape=tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape),
    )
