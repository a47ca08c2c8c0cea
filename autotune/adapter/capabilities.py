"""Optional parts of the contract; the core asks with ``isinstance`` and does without where one is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from autotune.adapter.contract import Adapter, Array, Execution, Feeds, ModelT, Runner, Statistics
from autotune.adapter.example import Example
from autotune.calibration import CalibrationStatistics
from autotune.config import QuantizationConfig
from autotune.host import Host, current_host
from autotune.options import AdapterOption
from autotune.space import TuningSpace


@runtime_checkable
class Preparation(Protocol):
    """Optional part of the contract, for adapters whose :meth:`Adapter.load` changes the graph before it is quantized.

    The user's model is the baseline, as it was given; candidates are made of the prepared one.
    """

    def as_given(self, model: Any) -> Any:
        """The user's model as it was before it was prepared; what a run measures as its baseline."""
        ...

    def on_data(self, model: Any, batches: Iterable[Feeds]) -> Any:
        """The model as the user's data want it prepared; called once per run, before :meth:`Adapter.space`.

        Holds it against the user's own on the first batch, and does less to it where the two part.

        Raises:
            ModelError: Their outputs differ whatever is left out.
        """
        ...

    def executes_another_graph(self, model: Any) -> bool:
        """Whether the runtime executes other ops for the prepared model, so that it may be faster by itself."""
        ...


@runtime_checkable
class DeclaresOptions(Protocol):
    """Optional part of the contract, for adapters with choices for the graph that they alone know."""

    options: Sequence[AdapterOption]
    """All of them with all of their values, in the order in which a recipe counts them; none is ever removed.

    :meth:`Adapter.space` offers those that make a difference to a model, :meth:`Adapter.apply` takes every value.
    """


@runtime_checkable
class DeclaresPackages(Protocol):
    """Optional part of the contract, for adapters whose figures depend on versions of their framework."""

    packages: tuple[str, ...]
    """The distributions that compute, by the names under which they are installed.

    Their versions are part of the host: where one changes, a workspace refuses to go on with figures of another.
    """


@runtime_checkable
class PortabilityCheck(Protocol):
    """Optional part of the contract, for adapters whose candidates' accuracy depends on a CPU's instructions."""

    def saturating_ops(self, model: Any) -> Sequence[str]:
        """Ops of a candidate whose sum of two products can exceed 16 bits, in graph order.

        On x86 without VNNI such a sum is cut to 16 bits, so that the same file loses accuracy there.
        """
        ...


@runtime_checkable
class HostFindings(Protocol):
    """Optional part of the contract, for adapters whose choices depend on measurements of this host."""

    def host_findings(self) -> Sequence[str]:
        """Measurements of this host and what follows from them for the space, a line each; for people."""
        ...


@runtime_checkable
class OwnStatistics(Protocol):
    """Optional part of the contract, for adapters with statistics other than ``CalibrationStatistics``."""

    statistics_type: type[Statistics]
    """Type that :meth:`Adapter.calibrate` returns; a workspace keeps it with ``save`` and reads it with ``load``."""


@runtime_checkable
class DataDependentSpace(Protocol):
    """Optional part of the contract, for adapters whose calibration decides whether an op can be quantized."""

    def calibrated_space(self, space: TuningSpace, model: Any, statistics: Any) -> tuple[TuningSpace, Sequence[str]]:
        """The space without the choices that the data rules out, and a line for each reason; called once per run."""
        ...


@runtime_checkable
class LocalErrors(Protocol):
    """Optional part of the contract, for adapters that can tell from calibration how exact an int8 op is."""

    def local_errors(self, model: Any, config: QuantizationConfig, statistics: Any) -> Mapping[str, float]:
        """By op that ``config`` quantizes: noise to signal of what it reads and writes, weights included, added up.

        It costs no inference, and says nothing of what later ops make of the noise. An op may have no entry.
        """
        ...


@runtime_checkable
class CostModel(Protocol):
    """Optional part of the contract, for adapters whose framework can profile the latency of single ops."""

    def op_seconds(self, models: Sequence[Any], feeds: Feeds, execution: Execution) -> Sequence[Mapping[str, float]]:
        """By model, by op: seconds of its kernels in one call, without conversions; the models are run in turn.

        An op that was fused into another one has no entry.

        Raises:
            ApplyError: The framework refuses a model.
        """
        ...

    def conversion_seconds(self, model: Any, statistics: Any, execution: Execution) -> Mapping[str, float]:
        """By op: seconds of converting its output between fp32 and int8 once."""
        ...

    def neighbours(self, model: Any) -> Mapping[str, Sequence[str]]:
        """By op: the ops that read its output, directly or through nodes that pass int8 on unchanged."""
        ...


@runtime_checkable
class NamesTensors(Protocol):
    """Optional part of the contract, for adapters that say which calibrated tensors an op reads.

    Reports show the histograms and the chosen ranges of the tensors that are quantized worst.
    """

    def tensors_read(self, model: Any) -> Mapping[str, Sequence[str]]:
        """By op of the space: the tensors that it reads as activations, by their names in the statistics."""
        ...


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A tensor that an op writes.

    Attributes:
        tensor: Name of the tensor, which is the same in a model and in what was tuned from it.
        op: The op that writes it.
        op_type: Type of that op.
        reads: The tensors that the op reads.
    """

    tensor: str
    op: str
    op_type: str
    reads: tuple[str, ...] = ()


@runtime_checkable
class ShowsActivations(Protocol):
    """Optional part of the contract, for adapters that can look at every tensor inside of a model.

    ``autotune inspect --compare`` tells by it where two models part. Both methods take the model as
    :meth:`Adapter.load` returned it, and speak of the model as the file has it.
    """

    def layers(self, model: Any) -> Sequence[Layer]:
        """The tensors of the model, in the order in which they are computed."""
        ...

    def activations(
        self, model: Any, batches: Iterable[Feeds], tensors: Sequence[str]
    ) -> Iterator[Mapping[str, Array]]:
        """For each batch, the values of those of ``tensors`` that the model has, as its ops write them.

        Tensors in integers come as the numbers that these stand for.
        """
        ...


@runtime_checkable
class Differentiable(Protocol):
    """Optional part of the contract, for adapters whose framework differentiates models; strategy ``hawq`` needs it.

    The loss is the squared change of the model's outputs over their squared spread, of which the fp32 model is the
    minimum; it needs no labels.
    """

    def weights(self, model: Any) -> Mapping[str, Array]:
        """By op of the space that has any: its constant weights; of a candidate, what their integers stand for."""
        ...

    def hessian_probe(self, model: Any, feeds: Feeds, *, seed: int) -> Mapping[str, float]:
        """By op with weights: ``v' H v``, with the Hessian of the loss in its weights and a vector of random signs.

        Each op has a vector of its own, as long as it has weights, and ``H`` is that op's part of the Hessian.

        Args:
            model: The fp32 model.
            feeds: A batch.
            seed: Seed of the signs.
        """
        ...


@runtime_checkable
class SuffixByModel(Protocol):
    """An addition to the contract for adapters that write models under different endings."""

    def suffix_of(self, model: Any) -> str:
        """The ending of the path that :meth:`Adapter.save` writes a model to, the dot included."""
        ...


@runtime_checkable
class Compiles(Protocol):
    """An addition to the contract for adapters whose :meth:`Adapter.runner` compiles a model, which takes seconds.

    Compiling is apart from computing: accuracy is judged on a form that needs no compiler, and only a candidate
    that may win is compiled. The core counts compilations and their time.
    """

    def quick_runner(self, model: Any, execution: Execution) -> Runner:
        """A runner that computes as the compiled model does, but for rounding; its speed says nothing.

        Raises:
            ApplyError: The framework refuses the model.
        """
        ...

    def is_compiled(self, model: Any) -> bool:
        """Whether :meth:`Adapter.runner` has nothing left to compile."""
        ...


def quick_runner(adapter: Adapter[ModelT], model: ModelT, execution: Execution) -> Runner:
    """A runner that computes as a model does and is ready at once: for outputs, not for times."""
    if isinstance(adapter, Compiles):
        return adapter.quick_runner(model, execution)
    return adapter.runner(model, execution)


class Gradients(Protocol):
    """Derivatives of a framework's own object, by the names that its ops have on every runtime."""

    def weights(self) -> Mapping[str, tuple[Array, int]]:
        """By op that has any: its constant weight as runtimes see it, and the axis that counts output channels."""
        ...

    def hessian_probe(self, feeds: Feeds, *, seed: int, labels: Any = None) -> Mapping[str, float]:
        """By op with weights: an estimate of the Hessian's trace, as of :meth:`Differentiable.hessian_probe`.

        Args:
            feeds: A batch.
            seed: Seed of the signs.
            labels: Classes of its samples, for the cross entropy with them; None for the change of the outputs.

        Raises:
            DataError: Labels or outputs are none of a classification.
        """
        ...


@runtime_checkable
class ReadsMetadata(Protocol):
    """Reading back what ``save`` wrote beside a model, so that a tuned file tells the config that it was made by."""

    def metadata(self, path: Path) -> Mapping[str, str]:
        """The metadata of a saved model; empty where it has none.

        Raises:
            ModelError: It is missing, or no model of this framework.
        """
        ...


class BatchReader(Protocol):
    """Makes arrays of a framework's tensors. It can be pickled, and does not hold the model."""

    def __call__(self, item: object) -> object:
        """One item of a loader: arrays for tensors, labels included, without inputs that the model does not take."""
        ...

    def inputs(self, inputs: object) -> object:
        """The same for inputs without labels."""
        ...


@runtime_checkable
class SourceFramework(Protocol):
    """A framework whose own objects users give as models, and whose tensors their loaders and functions work with.

    It is found by the package of the object's class (``autotune.adapters.FRAMEWORKS``), so that the core imports no
    framework to find out whose object it has. Runtimes that do not read the object itself get ONNX made of it.
    """

    name: str
    """The adapter that reads the framework's objects themselves, as users write it after ``framework:``."""

    def owns(self, source: object) -> bool:
        """Whether an object is a model of this framework."""
        ...

    def to_onnx(self, source: Any, example: Example | None) -> tuple[bytes, Sequence[str]]:
        """The bytes of an ONNX file that computes the same, and notes for the user, a line each.

        Args:
            source: A model of this framework.
            example: The first batches of the user's data.

        Raises:
            ModelError: The model cannot be converted; the message says why.
            DataError: There is no example, or one that the model does not take.
        """
        ...

    def gradients(self, source: Any, example: Example | None) -> Gradients | None:
        """Derivatives of a model of this framework; None where it has none. Called once, where a strategy asks.

        Args:
            source: A model of this framework.
            example: The first batches of the user's data.
        """
        ...

    def reader(self, source: Any) -> BatchReader:
        """Makes arrays of the batches for a model of this framework."""
        ...

    def module(self, call: Callable[[object], Any], read: BatchReader) -> Callable[..., Any]:
        """A tuned model as a model of this framework, which gives tensors, or arrays where it is given arrays.

        It can be pickled where ``call`` can.

        Args:
            call: Runs the tuned model on one batch of arrays: a tuple in graph order or a dict by input name.
            read: The reader that :meth:`reader` returned.
        """
        ...


@runtime_checkable
class FixedThreads(Protocol):
    """A runner of a framework whose threads are chosen once in a process: it is not opened again with others."""

    @property
    def fixed_threads(self) -> int:
        """Threads of all runners of the framework in this process."""
        ...


def given_model(adapter: Adapter[ModelT], model: ModelT) -> ModelT:
    """The user's model as the file has it, of what ``load`` returned."""
    return adapter.as_given(model) if isinstance(adapter, Preparation) else model


def statistics_type(adapter: Adapter[Any]) -> type[Statistics]:
    """The type of what an adapter's calibration leaves: its own, or the project's."""
    return adapter.statistics_type if isinstance(adapter, OwnStatistics) else CalibrationStatistics


def suffix_of(adapter: Adapter[ModelT], model: ModelT) -> str:
    """The ending of the path that an adapter writes a model to."""
    return adapter.suffix_of(model) if isinstance(adapter, SuffixByModel) else adapter.suffix


def declared_options(adapter: Adapter[Any]) -> tuple[AdapterOption, ...]:
    """The options that an adapter declares; empty where it has none."""
    return tuple(adapter.options) if isinstance(adapter, DeclaresOptions) else ()


def host_of(adapter: Adapter[Any]) -> Host:
    """The machine that this process runs on, with the versions of what the adapter computes with."""
    return current_host(tuple(adapter.packages) if isinstance(adapter, DeclaresPackages) else ())
