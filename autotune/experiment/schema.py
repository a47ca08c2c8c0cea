"""The sections of an experiment file. Parsed sections are frozen and typed; they read and import nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from autotune.constraints import Constraints
from autotune.criterion import Criterion
from autotune.errors import CriterionError
from autotune.evaluation import CacheState, Isolation
from autotune.experiment.datasets import Dataset
from autotune.experiment.model import Model
from autotune.experiment.quantization import Quantization
from autotune.experiment.section import (
    Bytes,
    FilePath,
    Reference,
    Runtimes,
    Section,
    broken_rule,
    only,
)
from autotune.strategy import Objective

_Count = Annotated[int, Field(gt=0, le=1_000_000_000)]
_Threads = Annotated[int, Field(gt=0, le=1024)]
_BatchSize = Annotated[int, Field(gt=0, le=65_536)]
_Seed = Annotated[int, Field(ge=0, lt=2**32)]
_Positive = Annotated[float, Field(gt=0, le=1e9)]
_Seconds = Annotated[float, Field(gt=0, le=1e9)]


class Calibration(Section):
    """The data from which ranges are learnt: some samples of the training set."""

    dataset: Dataset
    """Where the samples come from. Labels are not needed."""
    sampling_size: _Count | None = 100
    """How many samples are used; null uses all."""


class AccuracyCriterion(Section):
    """The accuracy target. Without any, 1 % relative."""

    relative: float | None = None
    """The largest loss, as a share of the fp32 model's figure: 0.01 is 1 %."""
    absolute: float | None = None
    """The largest loss, in the metric's own unit."""
    higher_is_better: bool = True
    """Whether a larger figure is a better one."""
    confidence: float | None = None
    """Where given, only an upper bound of the loss at this confidence counts as met."""

    _criterion: Criterion = PrivateAttr()

    @model_validator(mode="after")
    def _can_be_decided(self) -> Self:
        try:
            self._criterion = Criterion(
                relative=self.relative,
                absolute=self.absolute,
                higher_is_better=self.higher_is_better,
                confidence=self.confidence,
            )
        except CriterionError as error:
            raise broken_rule(str(error)) from None
        return self

    @property
    def criterion(self) -> Criterion:
        """The same, as the tuner understands it."""
        return self._criterion


class NamedMetric(Section):
    """One of several metrics."""

    # The metric decides on further keys and checks them.
    model_config = ConfigDict(extra="allow")

    metric: str
    """A built-in metric. Its options stand beside it."""

    @property
    def options(self) -> dict[str, Any]:
        """The metric's own options."""
        return dict(self.model_extra or {})


class Accuracy(Section):
    """How a model is scored: built-in metrics over a `dataset`, or your own `function`."""

    # The metric decides on further keys and checks them.
    model_config = ConfigDict(extra="allow")

    metric: str | None = None
    """A built-in metric. Its options stand beside it, as in `{metric: topk, k: 5}`."""
    metrics: Annotated[tuple[NamedMetric, ...], Field(strict=False, min_length=1)] | None = None
    """Several metrics in place of `metric`; the first is judged by `tuning.accuracy_criterion`."""
    dataset: Dataset | None = None
    """The data that metrics are evaluated on. Labels are not needed where no metric reads them."""
    criteria: dict[str, AccuracyCriterion] = Field(default_factory=dict)
    """Targets of further figures, by the names under which they are reported, as in `top5: {absolute: 0.005}`."""
    holdout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the samples that the search never sees, for the final figure; by default 0.2 from 2,000 samples on."""
    early_stopping: bool = True
    """Whether an evaluation ends once its verdict is certain or nearly so. The answer has always seen all samples."""
    function: Reference | None = None
    """A Python callable, as `module:function`. It gets a callable model and returns a number, or a dict of numbers."""

    @property
    def options(self) -> dict[str, Any]:
        """The metric's own options."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        way = only(self, ("metric", "metrics", "function"))
        if self.function is None and self.dataset is None:
            raise broken_rule(f"`{'metric' if way is self.metric else 'metrics'}` needs a `dataset` beside it")
        if self.metrics is not None and self.options:
            raise broken_rule(f"the options of `metrics` stand beside each, but {', '.join(self.options)} does not")
        if self.function is not None:
            extra = [name for name in ("dataset", "holdout") if getattr(self, name) is not None] + list(self.options)
            if extra:
                raise broken_rule(f"`function` reads its own data; it takes no {', '.join(extra)}")
        return self


class Performance(Section):
    """How latency is measured."""

    threads: _Threads = 1
    """Threads inside of one call."""
    batch_size: _BatchSize = 1
    """Samples in one call; where the model takes no other number, the data set's own."""
    batch_axis: int | dict[str, int] | None = None
    """The axis that counts samples, or such an axis by the name of each input and output that has one. By default the
    one that inputs and outputs share by a name that means a batch, or that proves to be it."""
    warmup: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    """Calls before the first one that counts."""
    interval_width: Annotated[float, Field(gt=0, lt=1)] = 0.03
    """Half width that the interval of a speedup must reach, as a share of it; more calls are timed until it does."""
    max_seconds: _Seconds | None = 10.0
    """Wall time of one comparison, after which its speedup stays undecided; null for no limit."""
    cache: CacheState = CacheState.WARM
    """State of the caches when a call is timed: warm (blocks of calls, as a server runs) or cold (calls in turn)."""


class Evaluation(Section):
    """How a candidate is judged."""

    accuracy: Accuracy
    """How it is scored."""
    performance: Performance = Performance()
    """How it is timed."""
    isolation: Isolation = Isolation.PROCESS
    """`process`: in a worker process, so that a crash, a hang or a flood of memory fails a trial and not the run;
    `none`: in the process of the run itself."""
    trial_timeout: _Seconds | None = None
    """Seconds after which a trial in a worker fails; null for no limit."""
    trial_memory: Bytes | None = None
    """Memory of the worker at which a trial fails, in bytes or as in `4 GiB`; by default 9/10 of what is free."""


class Strategy(Section):
    """How the space is searched."""

    # The strategy decides on further keys and checks them.
    model_config = ConfigDict(extra="allow")

    name: str = "auto"
    """The strategy. Its options stand beside it."""

    @property
    def options(self) -> dict[str, Any]:
        """The strategy's own options."""
        return dict(self.model_extra or {})


class ExitPolicy(Section):
    """When the search ends, whatever it has found."""

    timeout: _Seconds | None = None
    """Seconds of wall time for the whole run; null for no limit."""
    max_trials: _Count | None = 50
    """How many candidates are tried; null for no limit."""
    max_compilations: _Count | None = None
    """How many candidates are compiled, where the framework compiles them; null for no limit."""
    compilation_timeout: _Seconds | None = None
    """Seconds of wall time that compiling may take in all; null for no limit."""
    when_confirmed: bool = False
    """Whether the search ends once the config of `start_from` is confirmed, so that nothing else is tried."""


class Limits(Section):
    """Limits of speed and size; all of those that are given must be kept."""

    latency_ms: _Positive | None = None
    """The largest latency of one call, in milliseconds."""
    speedup: _Positive | None = None
    """The least speed, as a multiple of fp32's."""
    size_bytes: Bytes | None = None
    """The largest size of the model, in bytes or as in `4 MiB`."""

    @model_validator(mode="after")
    def _any(self) -> Self:
        if self.latency_ms is self.speedup is self.size_bytes is None:
            raise broken_rule("must have one of `latency_ms`, `speedup` and `size_bytes`")
        return self

    @property
    def constraints(self) -> Constraints:
        """The same, as the tuner understands it."""
        return Constraints(latency_ms=self.latency_ms, speedup=self.speedup, size_bytes=self.size_bytes)


class Tuning(Section):
    """Goal and limits of the search."""

    strategy: Strategy = Strategy()
    """How the space is searched."""
    accuracy_criterion: AccuracyCriterion = AccuracyCriterion()
    """Accuracy that may be lost."""
    portable: bool = False
    """Whether to admit only models that cannot saturate on x86 CPUs without VNNI, so that the loss holds there too."""
    objective: Objective = Objective.LATENCY
    """The figure that the best model has least of: `latency`, `size` or `memory`; `throughput`: most samples per
    second of `instances`; `accuracy`: least loss within `constraints`."""
    constraints: Limits | None = None
    """The limits of `objective: accuracy`."""
    instances: _Threads = 1
    """With `objective: throughput`, processes that run the model at the same time, each with `threads` cores."""
    exit_policy: ExitPolicy = ExitPolicy()
    """When the search ends."""
    random_seed: _Seed = 0
    """Seed of every random choice."""
    workspace: FilePath | None = None
    """The folder for the history and the models; the same folder resumes. By default `runs/` and this file's name."""
    start_from: FilePath | None = None
    """The config to try first: a workspace (its answer), `workspace:trial`, a tuned model, or a config as JSON."""
    storage: str | None = None
    """An Optuna storage URL for the history, in place of a file in the workspace."""

    @model_validator(mode="after")
    def _limits_of_accuracy(self) -> Self:
        if (self.objective is Objective.ACCURACY) != (self.constraints is not None):
            raise broken_rule(
                "`objective: accuracy` and `constraints: {latency_ms: 5}` go together: least loss needs a limit to be "
                f"searched within, but the objective is {self.objective}"
            )
        return self


class Experiment(Section):
    """An experiment, as `autotune run` reads it."""

    model_config = ConfigDict(title="autotune experiment")

    model: Model
    """The trained fp32 model."""
    runtimes: Runtimes | None = None
    """Runtimes to search, such as `[onnxruntime, openvino]`; the answer is the fastest model on any of them. By default
    `model.framework` alone."""
    calibration: Calibration
    """The data from which ranges are learnt."""
    quantization: Quantization = Quantization()
    """Choices allowed for ops and for the graph."""
    evaluation: Evaluation
    """How a candidate is judged."""
    tuning: Tuning = Tuning()
    """Goal and limits of the search."""

    _path: Path = PrivateAttr(default=Path())
    _name: str | None = PrivateAttr(default=None)
    _trust: tuple[str, ...] = PrivateAttr(default=())
    _unfilled: tuple[str, ...] = PrivateAttr(default=())
    _notes: tuple[str, ...] = PrivateAttr(default=())
    _where: Callable[[Sequence[str]], str] = PrivateAttr(default=".".join)

    @property
    def path(self) -> Path:
        """The file that this was read from."""
        return self._path

    @property
    def directory(self) -> Path:
        """The folder of that file."""
        return self._path.parent

    @property
    def trust(self) -> tuple[str, ...]:
        """Packages whose functions may be called, beside those in the file's own folder."""
        return self._trust

    def where(self, *keys: str) -> str:
        """Where a key stands, as ``file:line``; where it is missing, the nearest key above it."""
        return self._where(keys)

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each key of Neural Compressor's that was left out or read in another way."""
        return self._notes

    @property
    def unfilled(self) -> tuple[str, ...]:
        """Places that `autotune init` left to be filled in, such as `<calibration.npz>`: a line for each."""
        return self._unfilled

    @property
    def workspace(self) -> Path:
        """Where the history and the models live; of one of several models, a folder of its own in there."""
        folder = self.tuning.workspace or self.directory / "runs" / self._path.stem
        return folder if self._name is None else folder / self._name

    @property
    def name(self) -> str | None:
        """The name under which the file has this model among several; None where it has one."""
        return self._name
