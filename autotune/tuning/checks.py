"""Checks of what a tuner is given: its options, what goes with what, and how accuracy is scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from autotune import data
from autotune.arguments import check_fields, names_a_folder, require, shown
from autotune.criterion import Criterion
from autotune.errors import InputError
from autotune.evaluation import Isolation, LabelledData, Metric, UserFunction, check_direction, create_metric
from autotune.restriction import SpaceRestriction
from autotune.runtimes.names import broken_rule_of
from autotune.strategy import Objective
from autotune.tuning.identity import identity_of
from autotune.tuning.keywords import DEFAULT_FRAMEWORK, EvalFunction, Metrics

if TYPE_CHECKING:
    from autotune.tuning.tuner import Tuner

_MOST = {"threads": 1024, "batch_size": 65_536, "timeout_s": 1e9, "compilation_max_s": 1e9, "trial_timeout_s": 1e9}
"""Largest values of options. Beyond them a machine hangs, or a clock overflows."""

_RULED = frozenset({"strategy", "objective", "runtimes", "latency_cache", "isolation"})
"""Options with a rule for every value, which says more than their type."""


def check(tuner: Tuner) -> None:
    """See that the options of a tuner can be used, each by itself and with one another.

    Raises:
        InputError: One cannot.
    """
    from autotune.strategies import as_strategy  # noqa: PLC0415  it imports Optuna, as the first search does

    _check_types(tuner)
    as_strategy(tuner.strategy, tuner.strategy_options)
    for name in ("max_trials", "threads", "batch_size", "sampling_size", "max_compilations"):
        value = getattr(tuner, name)
        if value is not None and value < 1:
            raise InputError(f"`{name} >= 1` must hold, but got {value}")
    for name, most in _MOST.items():
        value = getattr(tuner, name)
        if value is not None and not value <= most:
            raise InputError(f"`{name} <= {most:,}` must hold, but got {value}")
    if not 0 <= tuner.seed < 2**32:
        raise InputError(f"`0 <= seed < 2**32` must hold, but got {tuner.seed}")
    if tuner.workspace is not None and str(tuner.workspace) == "":
        raise InputError('`workspace` must name a folder, but got "". Leave it out to keep nothing')
    for name in ("timeout_s", "compilation_max_s"):
        value = getattr(tuner, name)
        if value is not None and not value > 0:
            raise InputError(f"`{name} > 0` must hold, but got {value}")
    if tuner.objective not in list(Objective):
        raise InputError(f"The objective must be one of {[str(o) for o in Objective]}, but got {tuner.objective!r}")
    require_consistent_objective(tuner)
    _check_isolation(tuner)
    _check_runtimes(tuner)
    if tuner.stop_when_confirmed and tuner.start_from is None:
        raise InputError("`stop_when_confirmed` needs `start_from`: there is no config to confirm")
    assert tuner.latency_options  # the options check themselves when they are made


def require_consistent_objective(tuner: Tuner) -> None:
    """See that an objective has what belongs to it, and nothing that belongs to another one.

    Raises:
        InputError: It has not.
    """
    if (tuner.objective == Objective.ACCURACY) != (tuner.constraints is not None):
        raise InputError(
            'objective="accuracy" and `constraints` go together, as in constraints=Constraints(latency_ms=5.0): least '
            f"loss needs a limit to be searched within, but got {str(tuner.objective)!r} and {tuner.constraints}"
        )
    if tuner.objective == Objective.ACCURACY and tuner.train_fn is not None:
        raise InputError('`train_fn` mends a target that is missed, and objective="accuracy" has none. Leave it out')
    if tuner.instances < 1:
        raise InputError(f"`instances >= 1` must hold, but got {tuner.instances}")
    if tuner.objective == Objective.THROUGHPUT:
        assert tuner.throughput_options  # the options check themselves when they are made
    elif tuner.instances > 1:
        raise InputError(
            f'`instances` goes with objective="throughput", but got {tuner.instances} with {tuner.objective}'
        )


def require_names(models: Mapping[str, object], storage: str | None) -> None:
    """See that several models have names that are names of folders, and histories of their own.

    Raises:
        InputError: They have not.
    """
    if not isinstance(models, Mapping) or not models:
        raise InputError(
            f"`models` must be a dict of models by names of your own, with one or more, but got {models!r:.80}"
        )
    for name in models:
        if not names_a_folder(name):
            raise InputError(f"A model's name must be letters, digits, `.`, `_` and `-`, but got {name!r}")
    if storage is not None:
        raise InputError("`storage` holds the history of one model. Leave it out: each has a folder in `workspace`")


def source_of(
    tuner: Tuner, eval_fn: EvalFunction | None, metric: Metrics | None, eval_dataloader: Iterable[object] | None
) -> UserFunction | LabelledData:
    """Where accuracy comes from.

    Raises:
        InputError: Both ways of scoring are given, or none, or half of one, or an option that goes with the other.
        CriterionError: A metric and its criterion disagree on what is better.
    """
    if (eval_fn is None) == (metric is None):
        raise InputError("Give either `eval_fn`, or `metric` with `eval_dataloader`, so that accuracy can be measured")
    if eval_fn is not None:
        if not callable(eval_fn):
            raise InputError(f"`eval_fn` must be callable, but got {shown(eval_fn)}")
        if eval_dataloader is not None:
            raise InputError("`eval_dataloader` goes with `metric`: an `eval_fn` reads its own data")
        if tuner.holdout:
            raise InputError("`holdout` goes with `metric`: nothing can be held out of what only `eval_fn` reads")
        return UserFunction(function=eval_fn, criteria=tuner.criteria, origin=identity_of(eval_fn))
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
        criteria=tuner.criteria,
        holdout=tuner.holdout,
        label_free=all(each.label_free for each in metrics),
        early_stopping=tuner.early_stopping and tuner.constraints is None,
        early_acceptance=tuner.early_stopping and tuner.constraints is None,
    )
    check_direction(source, tuner.criterion)
    return source


def _check_types(tuner: Tuner) -> None:
    if not isinstance(tuner.criterion, Criterion):
        raise InputError(f"`criterion` must be a Criterion, as Criterion(relative=0.01), but got {tuner.criterion!r}")
    if not isinstance(tuner.restriction, SpaceRestriction):
        fields = ", ".join(field.name for field in dataclasses.fields(SpaceRestriction))
        raise InputError(
            "`restriction` must be a SpaceRestriction of autotune.restriction, which is made with "
            f"{fields}, but got {shown(tuner.restriction)}"
        )
    check_fields(tuner, InputError, skipped=_RULED)


def _check_isolation(tuner: Tuner) -> None:
    if tuner.isolation not in list(Isolation):
        raise InputError(f"`isolation` must be one of {[str(i) for i in Isolation]}, but got {tuner.isolation!r}")
    assert tuner.isolation_options
    if tuner.isolation == Isolation.PROCESS:
        return
    if tuner.objective == Objective.MEMORY:
        raise InputError(
            'objective="memory" needs isolation="process": only in a process of its own can a candidate\'s memory '
            "be told from everything else's"
        )
    for name in ("trial_timeout_s", "trial_memory_bytes"):
        if getattr(tuner, name) is not None:
            raise InputError(f'`{name}` needs isolation="process": nothing can end a trial inside of this process')


def _check_runtimes(tuner: Tuner) -> None:
    if tuner.runtimes is None:
        return
    if rule := broken_rule_of(tuner.runtimes):
        raise InputError(f"`runtimes` {rule}")
    if tuner.framework != DEFAULT_FRAMEWORK and tuner.framework not in tuner.runtimes:
        raise InputError(
            f"`framework` must be one of `runtimes` where both are given, but {tuner.framework!r} is none of "
            f"{', '.join(tuner.runtimes)}. Leave it out: every runtime reads the model itself"
        )
