"""The public entry: a tuner holds the options of a run, ``tune`` runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from autotune import data
from autotune.adapter import Adapter
from autotune.adapters import get_adapter
from autotune.batch import BatchAxis
from autotune.constraints import Constraints
from autotune.criterion import Criterion
from autotune.errors import InputError, MissingDependencyError
from autotune.evaluation import (
    CacheState,
    Isolation,
    IsolationOptions,
    LabelledData,
    LatencyOptions,
    ThroughputOptions,
    UserFunction,
)
from autotune.observer import Observer
from autotune.restriction import SpaceRestriction
from autotune.source import as_convertible, as_source
from autotune.strategy import Objective, Strategy
from autotune.suggestion import suggestion
from autotune.tuning.checks import check, require_names, source_of
from autotune.tuning.keywords import (
    DEFAULT_FRAMEWORK,
    ConfigSource,
    EvalFunction,
    Keywords,
    Metrics,
    Options,
    TrainFunction,
    explicit,
)
from autotune.tuning.limits import SearchEnd
from autotune.users_code import users_code
from autotune.watching import Several

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autotune.results.result import TuningResult

# The packages of a search are imported by the first one: Optuna and SQLAlchemy take most of a second.


@dataclass(frozen=True, kw_only=True)
class Tuner:
    """Finds the fastest quantized model whose accuracy loss stays under a target.

    Attributes:
        criterion: The accuracy target; 1 % relative loss by default.
        strategy: A strategy's name, a strategy, or any Optuna sampler.
        strategy_options: Options of a strategy that is given by name.
        objective: The figure to optimize under the target: ``latency``, ``size``, ``memory``, which needs a worker
            process, or ``throughput`` of ``instances``. ``accuracy``: least loss within ``constraints``; the target is
            no limit then.
        constraints: With ``accuracy``, the limits: latency, speedup over fp32, size.
        instances: With ``throughput``, processes that run the model at the same time, each with ``threads`` cores.
        max_trials: Candidates to try at the most.
        timeout_s: Wall time of one ``tune`` in seconds, calibration and baseline included.
        seed: Seed of every random choice.
        threads: Threads of one inference when latency is measured.
        batch_size: Samples of one inference when latency is measured. Where no axis of the model counts samples, or a
            batch of another size does not run, a call is measured as the data loader gives it; a note says which.
        batch_axis: The axis of inputs and outputs that counts samples, or a dict of such axes by the name of each input
            and output that has one. None: the one that they share by a name that means a batch, or that proves to.
        warmup: Inferences before latency is measured.
        sampling_size: Calibration samples to use at the most; None: all that the loader yields.
        workspace: Folder for the history, cached statistics and the best model so far; the same workspace resumes.
            None: nothing is kept.
        storage: URL of a storage for the history instead of a file in the workspace: an Optuna storage URL
            (``postgresql://USER@HOST/DATABASE``), ``journal://FILE`` or ``grpc://HOST:PORT``. A password comes from the
            environment (``PGPASSWORD``) or ``~/.pgpass``.
        fresh: Begin anew: remove the history that an earlier run left there, of whatever it was.
        framework: Name of the adapter.
        runtimes: Names of several adapters: the fastest model on any of them is the answer. The baseline is fp32 on the
            one that runs it fastest. A runtime that is not installed or cannot run the model is left out, and a note
            says why. None: ``framework`` alone.
        restriction: The part of the space that may be searched.
        portable: Admit only models that cannot saturate on x86 CPUs without VNNI, so that the loss holds there too.
        interval_width: Half width that the interval of a speedup must reach, as a share of the speedup.
        latency_max_s: Wall time of one latency comparison in seconds; None sets no limit.
        latency_cache: ``warm``: models are timed in short blocks of calls, as a server runs them. ``cold``: call by
            call in turn, so that each call finds the caches full of the other model, as beside other work.
        criteria: Targets of further figures, by their names. The verdict is the worst of all.
        holdout: With metrics, share of the samples that the search never sees, for a final figure without the luck of
            having been picked; a winner that this figure refutes makes room for the next. None: 0.2 where there are at
            least 2,000 samples, else 0.
        early_stopping: With metrics, whether an evaluation ends once its verdict is certain or nearly so. The answer
            has always seen all samples.
        isolation: ``none``: candidates run in this process. ``process``: in a worker, so that a crash in native code,
            a hang or a flood of memory fails a trial and not the run.
        trial_timeout_s: With a worker, seconds after which a trial fails; None sets no limit.
        trial_memory_bytes: With a worker, its resident memory at which a trial fails; None: nine tenths of what was
            free when it started.
        max_compilations: Candidates to compile at the most, where the framework compiles them (PyTorch); the search
            ends with the last one. None sets no limit.
        compilation_max_s: Wall time in seconds that compiling may take in one ``tune``; once it is up, nothing more is
            compiled and the search ends. None sets no limit.
        train_fn: The last resort for a framework's own model, where no post-training candidate keeps the target: called
            with the model in training mode, its tensors rounded as the best candidate rounds them; trains it in place,
            or returns another with the same parameters. Seeds, number of steps and early stopping are its own.
        start_from: The config to try first after fp32, such as last week's answer: a config, the path of its JSON, a
            workspace, ``WORKSPACE:TRIAL`` or a tuned model. It is mapped to the model by the names of its ops, else by
            structure and repeated blocks; ``TuningResult.started_from`` says whether it is confirmed.
        stop_when_confirmed: Whether the search ends where that config is confirmed.
        command: The command that repeats the run, for its report. None shows the call of this class.
        progress: Whether to show the run on standard error as the command line does: a line per stage and trial, and
            on a terminal a status line.
        observer: Is told what the run does.
    """

    criterion: Criterion = field(default_factory=Criterion)
    strategy: str | Strategy | BaseSampler = "auto"
    strategy_options: Mapping[str, Any] = field(default_factory=dict)
    objective: Objective | str = Objective.LATENCY
    constraints: Constraints | None = None
    instances: int = 1
    max_trials: int | None = 50
    timeout_s: float | None = None
    seed: int = 0
    threads: int = 1
    batch_size: int = 1
    batch_axis: BatchAxis | None = None
    warmup: int = 10
    sampling_size: int | None = 100
    workspace: str | Path | None = None
    storage: str | None = None
    fresh: bool = False
    framework: str = DEFAULT_FRAMEWORK
    runtimes: Sequence[str] | None = None
    restriction: SpaceRestriction = field(default_factory=SpaceRestriction)
    portable: bool = False
    interval_width: float = 0.03
    latency_max_s: float | None = 10.0
    latency_cache: CacheState | str = CacheState.WARM
    criteria: Mapping[str, Criterion] = field(default_factory=dict)
    holdout: float | None = None
    early_stopping: bool = True
    isolation: Isolation | str = Isolation.NONE
    trial_timeout_s: float | None = None
    trial_memory_bytes: int | None = None
    max_compilations: int | None = None
    compilation_max_s: float | None = None
    train_fn: TrainFunction | None = None
    start_from: ConfigSource | None = None
    stop_when_confirmed: bool = False
    command: str | None = None
    progress: bool = False
    observer: Observer = field(default_factory=Observer)

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "isolation", Isolation(self.isolation))
        object.__setattr__(self, "runtimes", None if self.runtimes is None else tuple(self.runtimes))

    @property
    def latency_options(self) -> LatencyOptions:
        """How latency is measured."""
        return LatencyOptions(
            threads=self.threads,
            batch_size=self.batch_size,
            warmup=self.warmup,
            interval_width=self.interval_width,
            max_seconds=self.latency_max_s,
            cache=self.latency_cache,
        )

    @property
    def throughput_options(self) -> ThroughputOptions:
        """How throughput is measured."""
        return ThroughputOptions(
            instances=self.instances,
            cores_per_instance=self.threads,
            batch_size=self.batch_size,
            warmup=self.warmup,
        )

    @property
    def objective_identity(self) -> str:
        """The objective as a history names it, with what belongs to it."""
        if self.constraints is not None:
            return f"{self.objective}: {self.constraints}"
        served = self.objective == Objective.THROUGHPUT
        return f"{self.objective} of {self.instances} instances" if served else str(self.objective)

    @property
    def isolation_options(self) -> IsolationOptions:
        """The limits of a trial in time and memory."""
        return IsolationOptions(trial_timeout_s=self.trial_timeout_s, trial_memory_bytes=self.trial_memory_bytes)

    def tune(
        self,
        model: object,
        dataloader: Iterable[object],
        eval_fn: EvalFunction | None = None,
        *,
        metric: Metrics | None = None,
        eval_dataloader: Iterable[object] | None = None,
    ) -> TuningResult:
        """Tune a model.

        Args:
            model: A path or the framework's own object: an ``nn.Module`` or a ``torch.export.ExportedProgram`` too,
                for every runtime. Loader and ``eval_fn`` may then work with tensors.
            dataloader: Calibration data: an iterable that can be iterated again and yields ``inputs`` or
                ``(inputs, labels)``; ``inputs`` is an array, a tuple in graph order or a dict by input name.
            eval_fn: Called with a callable, ``model(inputs)`` gives one array or a tuple; returns the accuracy, or
                several figures by name of which the first is judged.
            metric: Instead of ``eval_fn``, with ``eval_dataloader``: a metric or its name, or several, of which the
                first is judged by ``criterion``. Accuracy is then streamed per sample, so that evaluations can stop
                early and losses have intervals. ``agreement`` and ``cosine`` compare with the fp32 model's own outputs
                and need no labels; they say how far a candidate is from fp32 and not how good it is.
            eval_dataloader: Evaluation data; yields ``(inputs, labels)``, or ``inputs`` for metrics without labels.

        Returns:
            The answer, never None.

        Raises:
            InputError: The model, the data, the target or an option cannot be used.
            Exception: Any exception of the user's own ``eval_fn`` on the fp32 model, unchanged.
        """
        if self.progress:
            from autotune.cli.progress import shown  # noqa: PLC0415  rich takes a tenth of a second

            criterion = self.criterion
            with shown(criterion, max_trials=self.max_trials, timeout_s=self.timeout_s) as display:
                watched = dataclasses.replace(self, progress=False, observer=Several([display, self.observer]))
                sources = {"metric": metric, "eval_dataloader": eval_dataloader}
                return watched.tune(model, dataloader, eval_fn, **sources)  # type: ignore[arg-type]  # as they came
        with users_code("A data loader, metric or function of yours"):
            return self._tuned(model, dataloader, source_of(self, eval_fn, metric, eval_dataloader))

    def tune_all(
        self,
        models: Mapping[str, object],
        dataloader: Iterable[object],
        eval_fn: EvalFunction | None = None,
        *,
        metric: Metrics | None = None,
        eval_dataloader: Iterable[object] | None = None,
    ) -> dict[str, TuningResult]:
        """Tune several models on the same data, one after the other; see :meth:`tune` for the arguments.

        Args:
            models: The models by names of your own. Each has a folder of that name in ``workspace``.
            dataloader: Calibration data.
            eval_fn: Scores a model.
            metric: In place of ``eval_fn``, a metric.
            eval_dataloader: Its data.

        Returns:
            The answer for each model, by its name.

        Raises:
            InputError: There is no model, a name is no name of a folder, or they would share one ``storage``.
        """
        require_names(models, self.storage)
        from autotune.results.stored_config import of_model  # noqa: PLC0415  see above

        folder, start = None if self.workspace is None else Path(self.workspace), self.start_from
        tuners = {
            name: dataclasses.replace(
                self,
                workspace=None if folder is None else folder / name,
                start_from=None if start is None else of_model(start, name),
            )
            for name in models
        }
        return {
            name: tuners[name].tune(model, dataloader, eval_fn, metric=metric, eval_dataloader=eval_dataloader)
            for name, model in models.items()
        }

    def _tuned(
        self, model: object, dataloader: Iterable[object], accuracy: UserFunction | LabelledData
    ) -> TuningResult:
        from autotune.runtimes import RuntimesAdapter  # noqa: PLC0415  see above
        from autotune.tuning.run import Run  # noqa: PLC0415
        from autotune.tuning.training import require_trainable  # noqa: PLC0415

        own = as_source(model)
        if self.train_fn is not None:
            adapter = self._adapter()
            runtimes = adapter.adapters if isinstance(adapter, RuntimesAdapter) else {self.framework: adapter}
            require_trainable(own or model, runtimes)
        if own is None:
            return Run(self, self._adapter(), accuracy)(as_convertible(model), dataloader)
        data.require_repeatable(dataloader, "dataloader")
        own.note_surplus(dataloader)
        run = Run(self, self._adapter(), own.accuracy(accuracy))
        return dataclasses.replace(run(own, own.loader(dataloader)), _as_module=own.module)

    def take_part(
        self,
        model: object,
        dataloader: Iterable[object],
        eval_fn: EvalFunction | None = None,
        *,
        metric: Metrics | None = None,
        eval_dataloader: Iterable[object] | None = None,
    ) -> SearchEnd:
        """Try candidates of a run that another process has begun or will begin, until none is left.

        The study is that of ``storage``, or of the workspace. The other process has the same options, and model and
        data of its own that are the same; it races the finalists and has the answer. The arguments are those of
        :meth:`tune`, and so are the exceptions.

        Returns:
            Why it ended.
        """
        from autotune.tuning.run import Run  # noqa: PLC0415  see above

        if self.storage is None and self.workspace is None:
            raise InputError("To take part in a run, its `storage` or its `workspace` must be given, but both are None")
        own = as_source(model)
        accuracy = source_of(self, eval_fn, metric, eval_dataloader)
        if own is None:
            return Run(self, self._adapter(), accuracy, joins=True).take_part(model, dataloader)
        data.require_repeatable(dataloader, "dataloader")
        run = Run(self, self._adapter(), own.accuracy(accuracy), joins=True)
        return run.take_part(own, own.loader(dataloader))

    def _adapter(self) -> Adapter[Any]:
        """The adapter of the framework, or one that stands for those of all runtimes."""
        from autotune.runtimes import RuntimesAdapter  # noqa: PLC0415  see above

        if self.runtimes is None:
            return get_adapter(self.framework)
        adapters: dict[str, Adapter[Any]] = {}
        missing: dict[str, Exception] = {}
        for name in self.runtimes:
            try:
                adapters[name] = get_adapter(name)
            except MissingDependencyError as error:
                missing[name] = error
        return RuntimesAdapter(adapters, missing)


def tune(
    model: object, dataloader: Iterable[object], eval_fn: EvalFunction | None = None, **options: Unpack[Keywords]
) -> TuningResult:
    """Tune a model with 1 % relative loss as the target; see :class:`Tuner` for ``options``.

    ``metric`` and ``eval_dataloader`` are taken as :meth:`Tuner.tune` takes them.
    """
    if unknown := [name for name in options if name not in Keywords.__annotations__]:
        raise TypeError(f"tune() has no option {unknown[0]!r}{suggestion(unknown[0], Keywords.__annotations__)}")
    metric, eval_dataloader = options.pop("metric", None), options.pop("eval_dataloader", None)
    tuner = Tuner(**cast("Options", options))  # without the two, which the line above takes out
    return tuner.tune(model, dataloader, eval_fn, metric=metric, eval_dataloader=eval_dataloader)


tune.__signature__ = explicit(tune, Tuner)  # type: ignore[attr-defined]  # where `inspect.signature` looks first
