"""A model as the adapter holds it, and its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autotune.adapter import Array, TensorSpec
from autotune.adapters.mxnet.graph import Graph


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
        told: Notes for the user, a line each.
    """

    text: str
    arguments: Mapping[str, Array]
    states: Mapping[str, Array]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    asked: tuple[str, ...] = ()
    told: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, a line each."""
        return self.told

    @cached_property
    def graph(self) -> Graph:
        """The symbol."""
        return Graph(self.text)

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
        return len(self.text) + sum(array.nbytes + len(name) + 60 for name, array in arrays)
