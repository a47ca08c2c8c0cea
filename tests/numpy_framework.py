"""A toy framework in NumPy: graphs of dense layers, whose integers are simulated in float32.

Results are the same in every run. Quantized layers are slower than fp32 ones, since rounding costs more than a small
product of matrices.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autotune.adapter import Array, Feeds, TensorSpec
from autotune.algorithms import AffineParameters, affine_parameters, dequantize, fake_quantize
from autotune.config import TensorScheme
from autotune.errors import ApplyError

_SCHEMES = ("weight_scheme", "activation_scheme")
_PARAMETERS = ("weight_parameters", "activation_parameters")


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One node of a graph.

    Attributes:
        name: Its own name and that of its output.
        kind: ``dense``, ``relu``, ``add`` or ``flatten``.
        reads: Names of the layers that it reads, or of the model's input.
        weight: For dense layers, shape (inputs, outputs): float32, or the integers of ``weight_scheme``.
        bias: For dense layers, float32, shape (outputs,).
        weight_scheme: How the weight is quantized; None: not at all.
        weight_parameters: Scales and zero points of the weight.
        activation_scheme: How the layer's input is quantized; None: not at all.
        activation_parameters: Scale and zero point of the input; None: from the range of each call (dynamic).
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    weight: Array | None = None
    bias: Array | None = None
    weight_scheme: TensorScheme | None = None
    weight_parameters: AffineParameters | None = None
    activation_scheme: TensorScheme | None = None
    activation_parameters: AffineParameters | None = None

    def real_weight(self) -> Array | None:
        """The weight as float32."""
        if self.weight is None or self.weight_scheme is None or self.weight_parameters is None:
            return self.weight
        return dequantize(self.weight, self.weight_parameters, self.weight_scheme, 1)

    def rounded(self, values: Array) -> Array:
        """The layer's input as it is after quantization."""
        if self.activation_scheme is None:
            return values
        parameters = self.activation_parameters
        if parameters is None:
            parameters = affine_parameters(values.min(), values.max(), self.activation_scheme)
        return fake_quantize(values, parameters, self.activation_scheme)


@dataclass(frozen=True, kw_only=True, eq=False)
class NumpyModel:
    """Layers in the order of their execution; the last one is the output. See :class:`autotune.adapter.Model`."""

    layers: tuple[Layer, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(to_bytes(self, {})).hexdigest()[:16]

    @cached_property
    def size_bytes(self) -> int:
        return len(to_bytes(self, {}))

    @property
    def dense(self) -> dict[str, Layer]:
        """The layers that can be quantized."""
        return {layer.name: layer for layer in self.layers if layer.kind == "dense"}


def to_bytes(model: NumpyModel, metadata: Mapping[str, str]) -> bytes:
    """The model as an ``.npz`` archive: the graph as JSON, the arrays by ``layer/name``."""
    arrays: dict[str, Array] = {}
    entries = []
    for layer in model.layers:
        schemes = {name: str(getattr(layer, name)) for name in _SCHEMES if getattr(layer, name) is not None}
        entries.append({"name": layer.name, "kind": layer.kind, "reads": layer.reads, **schemes})
        arrays |= {
            f"{layer.name}/{name}": each for name in ("weight", "bias") if (each := getattr(layer, name)) is not None
        }
        for name in _PARAMETERS:
            if (parameters := getattr(layer, name)) is not None:
                arrays |= {
                    f"{layer.name}/{name}/scale": parameters.scale,
                    f"{layer.name}/{name}/zero": parameters.zero_point,
                }
    specs = [[(spec.name, str(spec.dtype), spec.shape) for spec in each] for each in (model.inputs, model.outputs)]
    graph = json.dumps({"layers": entries, "specs": specs, "metadata": dict(metadata)})
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, graph=np.array(graph), **arrays)
    return file.getvalue()


def read(path: Path) -> tuple[NumpyModel, dict[str, str]]:
    """The model and the metadata of a file that :func:`to_bytes` made."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive}
    graph = json.loads(str(arrays["graph"]))
    layers = []
    for entry in graph["layers"]:
        name = entry["name"]
        schemes = {key: TensorScheme.parse(entry[key]) for key in _SCHEMES if key in entry}
        parameters = {
            key: AffineParameters(arrays[f"{name}/{key}/scale"], arrays[f"{name}/{key}/zero"])
            for key in _PARAMETERS
            if f"{name}/{key}/scale" in arrays
        }
        weights = {key: arrays.get(f"{name}/{key}") for key in ("weight", "bias")}
        fields: dict[str, Any] = {**schemes, **parameters, **weights}
        layers.append(Layer(name=name, kind=entry["kind"], reads=tuple(entry["reads"]), **fields))
    inputs, outputs = (
        tuple(TensorSpec(name=name, dtype=np.dtype(dtype), shape=tuple(shape)) for name, dtype, shape in each)
        for each in graph["specs"]
    )
    return NumpyModel(layers=tuple(layers), inputs=inputs, outputs=outputs), graph["metadata"]


class NumpyRunner:
    """Executes a model layer by layer."""

    def __init__(self, model: NumpyModel) -> None:
        self._layers = model.layers
        self._weights = {layer.name: layer.real_weight() for layer in model.layers}

    def __call__(self, feeds: Feeds) -> tuple[Array, ...]:
        values = dict(feeds)
        try:
            for _ in self.steps(values):
                pass
        except (KeyError, ValueError) as error:
            raise ApplyError(f"A batch must be what the model reads, but: {error}") from error
        return (values[self._layers[-1].name],)

    def steps(self, values: dict[str, Array]) -> Iterator[Layer]:
        """Add the output of one layer after the other to ``values``."""
        for layer in self._layers:
            values[layer.name] = self._output(layer, *(values[name] for name in layer.reads))
            yield layer

    def _output(self, layer: Layer, first: Array, second: Array | None = None) -> Array:
        if layer.kind == "dense":
            with np.errstate(all="ignore"):  # kernels of a framework do not warn of infinities
                return np.asarray(layer.rounded(first) @ self._weights[layer.name] + layer.bias)
        if layer.kind == "add":
            return np.asarray(first + second)
        return np.maximum(first, 0) if layer.kind == "relu" else first.reshape(len(first), -1)
