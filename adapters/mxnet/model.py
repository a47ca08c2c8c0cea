"""A model as the adapter holds it, and its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from autotune.adapter import Array, TensorSpec
from autotune.adapters.mxnet.fold import folded
from autotune.adapters.mxnet.graph import Graph, QuantizableOp
from autotune.adapters.mxnet.layers import MxnetGraph


@dataclass(frozen=True, kw_only=True, eq=False)
class MxnetModel:
    """A symbol and its parameters, which nobody changes.

    Attributes:
        text: The symbol as JSON.
        arguments: By name: weights and other parameters, and nothing that is an input.
        states: By name: auxiliary states, such as the running means of batch normalizations.
        inputs: The inputs; their first axis counts samples.
        outputs: The outputs.
        asked: Ops that are to be int8; empty for a model in fp32.
        at_risk: Ops whose integers can saturate on x86 CPUs without VNNI.
        told: Notes for the user, a line each.
    """

    text: str
    arguments: Mapping[str, Array]
    states: Mapping[str, Array]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    asked: tuple[str, ...] = ()
    at_risk: tuple[str, ...] = ()
    told: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: MXNet's own objects cannot be pickled."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def with_text(self, text: str) -> MxnetModel:
        """The same parameters with another symbol."""
        return replace(self, text=text)

    def written(self, metadata: Mapping[str, str]) -> str:
        """The symbol's JSON as a file has it: what the adapter knows is an attribute of the first input."""
        said = {
            "inputs": [[spec.name, str(spec.dtype), list(spec.shape)] for spec in self.inputs],
            "outputs": [[spec.name, str(spec.dtype), list(spec.shape)] for spec in self.outputs],
            "asked": list(self.asked),
            "at_risk": list(self.at_risk),
            "told": list(self.told),
            "metadata": dict(metadata),
        }
        return self.graph.saying(self.inputs[0].name, said).text

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, a line each."""
        return self.told

    @cached_property
    def graph(self) -> Graph:
        """The symbol."""
        return Graph(self.text)

    @cached_property
    def prepared(self) -> MxnetModel:
        """The same model in fp32 as candidates are made of it, with normalizations folded."""
        graph, arguments = folded(self.graph, self.arguments, self.states)
        names = set(graph.variables())
        states = {name: array for name, array in self.states.items() if name in names}
        return replace(self, text=graph.text, arguments=arguments, states=states)

    @cached_property
    def layers(self) -> MxnetGraph:
        """The symbol as the recipes' algorithms see it; asked of a prepared model."""
        internals = self.graph.symbol.get_internals()
        known = {name: array.shape for name, array in self.arguments.items()}
        shapes = internals.infer_shape(**known, **{spec.name: (1, *spec.shape[1:]) for spec in self.inputs})[1]
        flat = [name for name, shape in zip(internals.list_outputs(), shapes, strict=True) if len(shape) == 2]
        return MxnetGraph(self.graph, self.arguments, self.states, flat)

    @cached_property
    def ops(self) -> tuple[QuantizableOp, ...]:
        """The ops that can become int8; none where some are int8 already."""
        return () if self.asked or self.graph.integer_ops() else self.prepared.graph.fused.ops

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that depend on the symbol, its parameters and the shapes of its inputs."""
        digest = hashlib.sha256()
        for node in self.graph.nodes:
            attributes = sorted(node.get("attrs", {}).items())
            digest.update(repr((node["op"], node["name"], attributes, node["inputs"])).encode())
            digest.update(repr(node.get("subgraphs")).encode())
        for name, array in sorted({**self.arguments, **self.states}.items()):
            digest.update(repr((name, str(array.dtype), array.shape)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(repr([(spec.name, str(spec.dtype), spec.shape) for spec in self.inputs]).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def size_bytes(self) -> int:
        """Size of both files, to within a few bytes for each parameter."""
        arrays = [*self.arguments.items(), *self.states.items()]
        return len(self.written({}).encode()) + sum(array.nbytes + len(name) + 60 for name, array in arrays)
