"""A complete adapter, for the toy framework of ``tests/numpy_framework.py``.

It is the second subject of the contract suite, and what the core's own tests tune.
"""

from __future__ import annotations

import dataclasses
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from autotune.adapter import Array, Example, Execution, Feeds, Runner
from autotune.algorithms import WeightLimits, activation_range, affine_parameters, can_saturate
from autotune.atomic import replacing
from autotune.calibration import CalibrationStatistics, StatisticsCollector
from autotune.calibration.checks import complete, require_samples
from autotune.config import (
    KL,
    MINMAX,
    MSE,
    PERCENTILE,
    CalibrationMethod,
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    Recipe,
    TensorScheme,
)
from autotune.errors import ApplyError, DataError, ModelError, WorkspaceError
from autotune.options import AdapterOption, Touches, require_declared
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, RecipeSpace, TuningSpace
from tests.numpy_framework import Layer, NumpyModel, NumpyRunner, read, to_bytes

U8 = TensorScheme(dtype=QuantizedType.U8)
S8 = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
S8_CHANNELS = dataclasses.replace(S8, granularity=Granularity.PER_CHANNEL)
STATIC = PrecisionSpace(
    precision=Precision.INT8,
    activations=(U8, S8),
    weights=(S8_CHANNELS, S8),
    algorithms=(MINMAX, PERCENTILE, KL, MSE),
)
DYNAMIC = PrecisionSpace(precision=Precision.INT8_DYNAMIC, activations=(U8,), weights=(S8_CHANNELS, S8))
STORED = PrecisionSpace(precision=Precision.INT8_WEIGHT)
OFFERED = (STATIC, DYNAMIC, STORED, FP32_SPACE)

BIASES = AdapterOption(
    name="biases",
    values=("float32", "float16"),
    default="float32",
    touches=Touches.VALUES,
    description="The type in which the biases of quantized layers are stored.",
)


class NumpyAdapter:
    """Makes :class:`NumpyModel` tunable; see :class:`autotune.adapter.Adapter`."""

    name = "numpy"
    suffix = ".npz"
    options = (BIASES,)
    packages = ("numpy",)

    def load(self, source: object, example: Example | None = None) -> NumpyModel:  # noqa: ARG002
        """A model as it is, or one that :meth:`save` wrote; no example is needed, since the file says what it reads."""
        if isinstance(source, NumpyModel):
            return source
        if not isinstance(source, (str, Path)):
            raise ModelError(f"A model must be a path or a NumpyModel, but is a {type(source).__name__}. Save it first")
        try:
            return read(Path(source))[0]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ModelError(
                f"{source} must be a file that NumpyAdapter.save wrote, but cannot be read: {error}"
            ) from error

    def space(self, model: NumpyModel) -> TuningSpace:
        """Every dense layer in each precision; weights may be bounded for CPUs without VNNI."""
        ops = tuple(OpSpace(name=name, op_type="Dense", precisions=OFFERED) for name in model.dense)
        return TuningSpace(
            ops=ops, recipe=RecipeSpace(reduce_range=(False, True), bound_pairs=(False, True), options=(BIASES,))
        )

    def calibrate(self, model: NumpyModel, batches: Iterable[Feeds], *, seed: int) -> CalibrationStatistics:
        """The statistics of what dense layers read, by the name of the layer that wrote it."""
        collector, runner, samples = StatisticsCollector({}, seed), NumpyRunner(model), 0
        for feeds in complete(batches, [spec.name for spec in model.inputs]):
            values = dict(feeds)
            try:
                for _ in runner.steps(values):
                    pass
            except (KeyError, ValueError) as error:
                raise DataError(f"A batch must be what the model reads, but: {error}") from error
            for layer in model.dense.values():
                collector.update(layer.reads[0], values[layer.reads[0]])
            samples += len(feeds[model.inputs[0].name])
        require_samples(samples)
        return collector.finish(samples)

    def apply(self, model: NumpyModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> NumpyModel:
        """The model with the layers that ``config`` names quantized."""
        require_declared(config.recipe.options, self.options)
        if unknown := sorted(set(config.ops) - set(model.dense)):
            raise ApplyError(
                f"A config must name dense layers of the model ({', '.join(model.dense)}), but got {unknown}"
            )
        return dataclasses.replace(
            model,
            layers=tuple(
                _quantized(layer, config[layer.name], config.recipe, statistics) if layer.name in config.ops else layer
                for layer in model.layers
            ),
        )

    def runner(self, model: NumpyModel, execution: Execution) -> Runner:  # noqa: ARG002
        """A runner; NumPy decides on its threads itself."""
        return NumpyRunner(model)

    def save(self, model: NumpyModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path, ...]:
        """Write an ``.npz`` archive under ``path``, whatever its suffix."""
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(to_bytes(model, metadata))
        except OSError as error:
            raise WorkspaceError(
                f"The model cannot be written to {path}: {error.strerror}. Choose another place"
            ) from error
        return (path,)

    def metadata(self, path: Path) -> Mapping[str, str]:
        """The metadata that :meth:`save` wrote; see :class:`autotune.adapter.ReadsMetadata`."""
        try:
            return read(path)[1]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ModelError(f"{path} must be a file that NumpyAdapter.save wrote, but: {error}") from error

    def host_findings(self) -> Sequence[str]:
        """The findings that decide on speed here; see :class:`autotune.adapter.HostFindings`."""
        return ("integers are simulated in float32",)

    def saturating_ops(self, model: NumpyModel) -> Sequence[str]:
        """Layers whose integers can sum to more than 16 bits hold; see :class:`autotune.adapter.PortabilityCheck`."""
        quantized = (layer for layer in model.dense.values() if layer.activation_scheme is not None)
        return tuple(layer.name for layer in quantized if layer.weight is not None and can_saturate(layer.weight))

    def op_seconds(
        self,
        models: Sequence[NumpyModel],
        feeds: Feeds,
        execution: Execution,  # noqa: ARG002
    ) -> Sequence[Mapping[str, float]]:
        """The least of three times of each dense layer; see :class:`autotune.adapter.CostModel`."""
        found: list[dict[str, float]] = [{} for _ in models]
        for _ in range(3):
            for model, seconds in zip(models, found, strict=True):
                began = time.perf_counter()
                for layer in NumpyRunner(model).steps(dict(feeds)):
                    spent, began = time.perf_counter() - began, time.perf_counter()
                    if layer.kind == "dense":
                        seconds[layer.name] = min(spent, seconds.get(layer.name, spent))
        return found

    def conversion_seconds(
        self,
        model: NumpyModel,
        statistics: CalibrationStatistics,  # noqa: ARG002
        execution: Execution,  # noqa: ARG002
    ) -> Mapping[str, float]:
        """Zero: the price of rounding a layer's input is in the time of the layer."""
        return dict.fromkeys(model.dense, 0.0)

    def neighbours(self, model: NumpyModel) -> Mapping[str, Sequence[str]]:
        """The dense layers that read a dense layer, with a relu between them or without."""
        source = {layer.name: layer.reads[0] for layer in model.layers if layer.kind == "relu"}
        return {
            name: [other.name for other in model.dense.values() if name in (other.reads[0], source.get(other.reads[0]))]
            for name in model.dense
        }

    def tensors_read(self, model: NumpyModel) -> Mapping[str, Sequence[str]]:
        """The one tensor that each dense layer reads; see :class:`autotune.adapter.NamesTensors`."""
        return {name: layer.reads[:1] for name, layer in model.dense.items()}

    def weights(self, model: NumpyModel) -> Mapping[str, Array]:
        """The weights of dense layers; see :class:`autotune.adapter.Differentiable`."""
        found = {name: layer.real_weight() for name, layer in model.dense.items()}
        return {name: weight for name, weight in found.items() if weight is not None}

    def hessian_probe(self, model: NumpyModel, feeds: Feeds, *, seed: int) -> Mapping[str, float]:
        """Products with the Hessian, from differences of outputs, as no adapter of a real framework would take them."""
        rng = np.random.default_rng(seed)
        (outputs,) = NumpyRunner(model)(feeds)
        found = {}
        for name, weight in self.weights(model).items():
            step = 1e-2 * float(weight.std())
            signs = rng.choice(np.array([-step, step], np.float32), weight.shape)
            high, low = (NumpyRunner(_with_weight(model, name, weight + d))(feeds)[0] for d in (signs, -signs))
            change = np.square((high - low) / (2 * step)).sum()
            found[name] = 2 * float(change / np.square(outputs - outputs.mean()).sum())
        return found


def _with_weight(model: NumpyModel, name: str, weight: Array) -> NumpyModel:
    layers = (dataclasses.replace(each, weight=weight) if each.name == name else each for each in model.layers)
    return dataclasses.replace(model, layers=tuple(layers))


def _quantized(layer: Layer, choice: OpConfig, recipe: Recipe, statistics: CalibrationStatistics) -> Layer:
    """The layer as ``choice`` has it."""
    if choice.precision not in {space.precision for space in OFFERED}:
        raise ApplyError(f"A dense layer must be in one of {[str(s.precision) for s in OFFERED]}, but got '{choice}'")
    assert layer.weight is not None
    weights = choice.weight or S8_CHANNELS
    bounded = np.arange(layer.weight.size).reshape(layer.weight.shape) if recipe.bound_pairs else None
    limits = WeightLimits(reduce_range=recipe.reduce_range, order=bounded)
    clipped = choice.calibration is not None and choice.calibration.method is CalibrationMethod.MSE
    parameters = limits.parameters(
        layer.weight, weights, 1, CalibrationMethod.MSE if clipped else CalibrationMethod.MINMAX
    )
    activation = None
    if choice.activation is not None and choice.calibration is not None:
        tensor = statistics.tensors.get(layer.reads[0])
        if tensor is None:
            raise ApplyError(
                f"{layer.name!r} needs statistics of {layer.reads[0]!r}, which has none. Calibrate this model"
            )
        low, high = activation_range(tensor, choice.calibration, choice.activation)
        activation = affine_parameters(low, high, choice.activation)
    return dataclasses.replace(
        layer,
        bias=None if layer.bias is None else layer.bias.astype(BIASES.of(recipe.options)),
        weight=limits.quantize(layer.weight, parameters, weights, 1),
        weight_scheme=weights,
        weight_parameters=parameters,
        activation_scheme=choice.activation,
        activation_parameters=activation,
    )
