"""Where the activations of two models part, such as those of an fp32 model and of what was tuned from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune import data
from autotune.adapter import Adapter, Array, Feeds, Layer, ShowsActivations, given_model
from autotune.adapters import get_adapter
from autotune.batch import axes_of
from autotune.bounds import require_least
from autotune.errors import InputError, ModelError
from autotune.evaluation.accuracy.agreement import decibels

_EXPLAINED = 0.1
"""Share of a channel's error that may be left where a factor explains it: a recipe has scaled the channel then."""


@dataclass(frozen=True, kw_only=True)
class LayerDifference:
    """How far a tensor of a model is from the tensor of the same name in another.

    Attributes:
        tensor: Name of the tensor.
        op: The op of the first model that writes it.
        op_type: Type of that op.
        sqnr_db: Ratio of signal to noise in decibels; infinite where both are equal.
        drop_db: How much lower it is than that of the worst tensor that the op reads. None where that cannot be told:
            both are equal, or the op reads inputs of the model alone and nothing is lost before it.
    """

    tensor: str
    op: str
    op_type: str
    sqnr_db: float
    drop_db: float | None


def compare(
    model: object,
    other: object,
    dataloader: Iterable[object],
    *,
    framework: str = "onnxruntime",
    samples: int = 8,
) -> list[LayerDifference]:
    """Tell where the activations of two models part, layer by layer.

    Tensors are compared by their names, which a tuned model keeps. Recipes that scale channels, ``equalization`` and
    ``smooth_quant``, change a tensor and the weights behind it by the same factors, which do not count as errors.

    Args:
        model: The model to compare with, an fp32 model for example: a path, or the framework's own object.
        other: The other one.
        dataloader: Yields ``inputs`` or ``(inputs, labels)``, as for ``tune``.
        framework: Name of the adapter.
        samples: Samples to run at the most; a batch is run as a whole.

    Returns:
        The tensors of floats that both have, in the order in which the first model computes them.

    Raises:
        InputError: The adapter cannot look inside of models, or the models or the data cannot be used.
    """
    require_least(1, InputError, samples=samples)
    adapter = get_adapter(framework)
    first, second = adapter.load(model), adapter.load(other)
    batches = data.limit(data.iterate(dataloader, first.inputs, axes=axes_of(first)), samples)
    return differences(adapter, first, second, [batch.feeds for batch in batches])


def differences(adapter: Adapter[Any], first: Any, second: Any, batches: Sequence[Feeds]) -> list[LayerDifference]:
    """The same of models that an adapter has loaded.

    Raises:
        InputError: The adapter cannot look inside of models.
        ModelError: The models read other inputs, or share no tensor of floats.
    """
    if not isinstance(adapter, ShowsActivations):
        raise InputError(
            f"To compare activations, the adapter must show the tensors inside of models, but {adapter.name!r} does "
            "not. Frameworks 'onnxruntime' and 'openvino' do: compare the models as ONNX or IR files"
        )
    names = [{spec.name for spec in given_model(adapter, model).inputs} for model in (first, second)]
    if names[0] != names[1]:
        raise ModelError(
            f"Models to compare must read the same inputs, but one reads {sorted(names[0])} and the other "
            f"{sorted(names[1])}"
        )
    layers = {layer.tensor: layer for layer in adapter.layers(first)}
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    both = (adapter.activations(model, batches, [*layers]) for model in (first, second))
    for wanted, found in zip(*both, strict=True):
        for tensor, value in found.items():
            if tensor in wanted and value.shape == wanted[tensor].shape:
                signal[tensor] = signal.get(tensor, 0.0) + _energy(wanted[tensor])
                noise[tensor] = noise.get(tensor, 0.0) + _energy(_unscaled(value, wanted[tensor]) - wanted[tensor])
    if not signal:
        raise ModelError(
            "Models to compare must share tensors of floats by their names, as a model and what was tuned from it do, "
            "but these share none"
        )
    ratios = {tensor: decibels(signal[tensor], noise[tensor]) for tensor in layers if tensor in signal}
    return [
        LayerDifference(
            tensor=tensor,
            op=layers[tensor].op,
            op_type=layers[tensor].op_type,
            sqnr_db=ratio,
            drop_db=_drop(layers[tensor], layers, ratios),
        )
        for tensor, ratio in ratios.items()
    ]


def _drop(layer: Layer, layers: dict[str, Layer], ratios: dict[str, float]) -> float | None:
    """How much an op adds to what its inputs have lost; ops between that were not compared are looked through."""
    before = _before(layer, layers, ratios, {layer.tensor})
    own = ratios[layer.tensor]
    return None if math.isinf(own) or not math.isfinite(before) else before - own


def _before(layer: Layer, layers: dict[str, Layer], ratios: dict[str, float], seen: set[str]) -> float:
    found = math.inf
    for tensor in layer.reads:
        if tensor in ratios:
            found = min(found, ratios[tensor])
        elif tensor in layers and tensor not in seen:
            seen.add(tensor)
            found = min(found, _before(layers[tensor], layers, ratios, seen))
    return found


def _unscaled(value: Array, wanted: Array) -> Array:
    """A tensor without the factors by which a recipe has scaled its channels; errors of int8 look like no factor."""
    value, wanted = value.astype(np.float64), wanted.astype(np.float64)
    if value.ndim < 2:
        return value
    channel = value.ndim - 1 if value.ndim == 3 else 1
    others = tuple(axis for axis in range(value.ndim) if axis != channel)
    squares = np.square(value).sum(axis=others, keepdims=True)
    factors = np.divide((value * wanted).sum(axis=others, keepdims=True), squares, where=squares > 0, out=squares + 1)
    plain, rest = (np.square(each - wanted).sum(axis=others, keepdims=True) for each in (value, value * factors))
    return value * np.where((factors > 0) & (rest < _EXPLAINED * plain), factors, 1.0)


def _energy(values: Array) -> float:
    return float(np.square(values, dtype=np.float64).sum())
