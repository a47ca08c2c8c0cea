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
from autotune.arguments import check_fields, require, shown
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
    Metric,
    ThroughputOptions,
    UserFunction,
    check_direction,
    create_metric,
)
from autotune.observer import Observer
from autotune.restriction import SpaceRestriction
from autotune.runtimes.names import broken_rule_of
from autotune.source import as_convertible, as_source
from autotune.strategy import Objective, Strategy
from autotune.tuning.identity import identity_of
from autotune.tuning.keywords import ConfigSource, EvalFunction, Keywords, Metrics, Options, TrainFunction, explicit
from autotune.tuning.limits import SearchEnd
from autotune.tuning.objectives import require_consistent_objective, require_names
from autotune.users_code import users_code
from autotune.watching import Several

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autotune.results.result import TuningResult

# The packages of a search are imported by the first one: Optuna and SQLAlchemy take most of a second.

DEFAULT_FRAMEWORK = "onnxruntime"
"""The framework of a model where the user names none."""


_MOST = {"threads": 1024, "batch_size": 65_536, "timeout_s": 1e9, "compilation_max_s": 1e9, "trial_timeout_s": 1e9}
"""Largest values of options. Beyond them a machine hangs, or a clock overflows."""

_RULED = frozenset({"strategy", "objective", "runtimes", "latency_cache", "isolation"})
"""Options with a rule for every value, which says more than their type."""


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
        from autotune.strategies import as_strategy  # noqa: PLC0415  see above

        self._check_types()
        as_strategy(self.strategy, self.strategy_options)
        for name in ("max_trials", "threads", "batch_size", "sampling_size", "max_compilations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"`{name} >= 1` must hold, but got {value}")
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value is not None and not value <= most:
                raise InputError(f"`{name} <= {most:,}` must hold, but got {value}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"`0 <= seed < 2**32` must hold, but got {self.seed}")
        if self.workspace is not None and str(self.workspace) == "":
            raise InputError('`workspace` must name a folder, but got "". Leave it out to keep nothing')
        for name in ("timeout_s", "compilation_max_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"`{name} > 0` must hold, but got {value}")
        if self.objective not in list(Objective):
            raise InputError(f"The objective must be one of {[str(o) for o in Objective]}, but got {self.objective!r}")
        require_consistent_objective(self)
        self._check_isolation()
        self._check_runtimes()
        if self.stop_when_confirmed and self.start_from is None:
            raise InputError("`stop_when_confirmed` needs `start_from`: there is no config to confirm")
        assert self.latency_options  # the options check themselves when they are made

    def _check_types(self) -> None:
        if not isinstance(self.criterion, Criterion):
            raise InputError(
                f"`criterion` must be a Criterion, as Criterion(relative=0.01), but got {self.criterion!r}"
            )
        if not isinstance(self.restriction, SpaceRestriction):
            fields = ", ".join(field.name for field in dataclasses.fields(SpaceRestriction))
            raise InputError(
                "`restriction` must be a SpaceRestriction of autotune.restriction, which is made with "
                f"{fields}, but got {shown(self.restriction)}"
            )
        check_fields(self, InputError, skipped=_RULED)

    def _check_isolation(self) -> None:
        if self.isolation not in list(Isolation):
            raise InputError(f"`isolation` must be one of {[str(i) for i in Isolation]}, but got {self.isolation!r}")
        object.__setattr__(self, "isolation", Isolation(self.isolation))
        assert self.isolation_options
        if self.isolation is Isolation.PROCESS:
            return
        if self.objective == Objective.MEMORY:
            raise InputError(
                'objective="memory" needs isolation="process": only in a process of its own can a candidate\'s memory '
                "be told from everything else's"
            )
        for name in ("trial_timeout_s", "trial_memory_bytes"):
            if getattr(self, name) is not None:
                raise InputError(f'`{name}` needs isolation="process": nothing can end a trial inside of this process')

    def _check_runtimes(self) -> None:
        if self.runtimes is None:
            return
        if rule := broken_rule_of(self.runtimes):
            raise InputError(f"`runtimes` {rule}")
        object.__setattr__(self, "runtimes", tuple(self.runtimes))
        if self.framework != DEFAULT_FRAMEWORK and self.framework not in self.runtimes:
            raise InputError(
                f"`framework` must be one of `runtimes` where both are given, but {self.framework!r} is none of "
                f"{', '.join(self.runtimes)}. Leave it out: every runtime reads the model itself"
            )

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
            return self._tuned(model, dataloader, self._source(eval_fn, metric, eval_dataloader))

    def tune_all(
        self,
        models: Mapping[str, object],
        dataloader: Iterable[object],
        eval_fn: EvalFunction | None = None,
        **sources: Any,
    ) -> dict[str, TuningResult]:
        """Tune several models on the same data, one after the other; see :meth:`tune` for the arguments.

        Args:
            models: The models by names of your own. Each has a folder of that name in ``workspace``.
            dataloader: Calibration data.
            eval_fn: Scores a model.
            **sources: ``metric`` and ``eval_dataloader``, as :meth:`tune` takes them.

        Returns:
            The answer for each model, by its name.

        Raises:
            InputError: There is no model, a name is no name of a folder, or they would share one ``storage``.
        """
        require_names(models, self.storage)
        folder = None if self.workspace is None else Path(self.workspace)
        tuners = {
            name: dataclasses.replace(self, workspace=None if folder is None else folder / name) for name in models
        }
        return {name: tuners[name].tune(model, dataloader, eval_fn, **sources) for name, model in models.items()}

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
        accuracy = self._source(eval_fn, metric, eval_dataloader)
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

    def _source(
        self, eval_fn: EvalFunction | None, metric: Metrics | None, eval_dataloader: Iterable[object] | None
    ) -> UserFunction | LabelledData:
        """Where accuracy comes from.

        Raises:
            InputError: Both ways of scoring are given, or none, or half of one, or an option that goes with the other.
            CriterionError: A metric and its criterion disagree on what is better.
        """
        if (eval_fn is None) == (metric is None):
            raise InputError(
                "Give either `eval_fn`, or `metric` with `eval_dataloader`, so that accuracy can be measured"
            )
        if eval_fn is not None:
            if not callable(eval_fn):
                raise InputError(f"`eval_fn` must be callable, but got {shown(eval_fn)}")
            if eval_dataloader is not None:
                raise InputError("`eval_dataloader` goes with `metric`: an `eval_fn` reads its own data")
            if self.holdout:
                raise InputError("`holdout` goes with `metric`: nothing can be held out of what only `eval_fn` reads")
            return UserFunction(function=eval_fn, criteria=self.criteria, origin=identity_of(eval_fn))
        if eval_dataloader is None:
            raise InputError("`metric` needs an `eval_dataloader` that yields (inputs, labels)")
        assert metric is not None
        require("metric", metric, str | Metric | Sequence[str | Metric], InputError)
        several = (metric,) if isinstance(metric, (str, Metric)) else metric
        metrics = tuple(create_metric(each) if isinstance(each, str) else each for each in several)
        data.require_repeatable(eval_dataloader, "eval_dataloader")
        source = LabelledData(
            loader=eval_dataloader,
            metrics=metrics,
            criteria=self.criteria,
            holdout=self.holdout,
            label_free=all(each.label_free for each in metrics),
            early_stopping=self.early_stopping and self.constraints is None,
            early_acceptance=self.early_stopping and self.constraints is None,
        )
        check_direction(source, self.criterion)
        return source


def tune(
    model: object, dataloader: Iterable[object], eval_fn: EvalFunction | None = None, **options: Unpack[Keywords]
) -> TuningResult:
    """Tune a model with 1 % relative loss as the target; see :class:`Tuner` for ``options``.

    ``metric`` and ``eval_dataloader`` are taken as :meth:`Tuner.tune` takes them.
    """
    metric, eval_dataloader = options.pop("metric", None), options.pop("eval_dataloader", None)
    tuner = Tuner(**cast("Options", options))  # without the two, which the line above takes out
    return tuner.tune(model, dataloader, eval_fn, metric=metric, eval_dataloader=eval_dataloader)


tune.__signature__ = explicit(tune, Tuner)  # type: ignore[attr-defined]  # where `inspect.signature` looks first
