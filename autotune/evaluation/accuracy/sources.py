"""Sources of accuracy: the user's own function, or metrics over labelled data."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autotune.criterion import Criterion
from autotune.errors import CriterionError, DataError, EvaluationFunctionError, InputError
from autotune.evaluation.accuracy.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class UserFunction:
    """Accuracy is what the user's function returns.

    Attributes:
        function: ``eval_fn(model)``; ``model(inputs)`` gives one array or a tuple. Returns a number, or numbers by
            name, of which the first is judged.
        criteria: Targets of further figures, by name. The verdict is the worst of all.
    """

    function: Callable[[Any], object]
    criteria: Mapping[str, Criterion] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Identifies the source in a history; figures from different sources are not compared."""
        return f"eval_fn{_targets(self.criteria)}"


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Accuracy is computed sample by sample, which gives intervals and lets evaluations end early.

    Attributes:
        loader: Yields ``(inputs, labels)``, or ``inputs`` for label-free metrics; can be iterated again and again.
        metrics: Metrics to compute; the first is judged by the criterion.
        criteria: Targets of further metrics, by name. The verdict is the worst of all.
        holdout: Share of the samples that the search never sees, for a final figure without the luck of having been
            picked. None: 0.2 where there are at least 2,000 samples, else 0. 0 holds nothing out.
        label_free: Whether the loader yields no labels; every metric must be a label-free one then.
        early_stopping: Whether an evaluation ends once it is certain or nearly so that the target is missed.
        early_acceptance: Whether it also ends once it is nearly certain that the target is met. The loss of such a
            candidate is an estimate until :meth:`Evaluator.complete` has seen the rest.
        memory_bytes: Most memory in which batches are kept, so that they are loaded once and can be evaluated in any
            order; None: a quarter of what is free.
    """

    loader: Iterable[object]
    metrics: tuple[Metric, ...]
    criteria: Mapping[str, Criterion] = field(default_factory=dict)
    holdout: float | None = None
    label_free: bool = False
    early_stopping: bool = True
    early_acceptance: bool = False
    memory_bytes: int | None = None

    @property
    def identity(self) -> str:
        """Identifies the source in a history; figures from different sources are not compared."""
        metrics = ", ".join(metric.identity for metric in self.metrics)
        holdout = "by size" if self.holdout is None else format(self.holdout, "g")
        return f"{metrics}{_targets(self.criteria)}, holdout {holdout}"

    def __post_init__(self) -> None:
        if not self.metrics:
            raise InputError("Labelled data needs at least one metric, but got none")
        names = [metric.name for metric in self.metrics]
        if len(set(names)) != len(names):
            raise InputError(f"Each metric must have a name of its own, but got {names}")
        if unknown := sorted(set(self.criteria) - set(names)):
            raise InputError(f"A target needs a metric of its name, but there is no metric {unknown[0]!r} in {names}")
        if self.holdout is not None and not 0 <= self.holdout < 1:
            raise DataError(
                f"`0 <= holdout < 1` must hold, but got {self.holdout:g}: it is the share of the data that is held out"
            )
        if self.label_free and (labelled := [metric.name for metric in self.metrics if not metric.label_free]):
            raise InputError(
                f"Data without labels needs label-free metrics, but {labelled[0]!r} reads labels. "
                "Use `agreement`, `cosine`, `fidelity` or `boxes`, which compare with the fp32 model's own outputs"
            )


def check_direction(source: UserFunction | LabelledData, criterion: Criterion) -> None:
    """See that metrics and criteria agree on whether a larger figure is a better one.

    Raises:
        CriterionError: The criterion and the metrics contradict each other.
    """
    if isinstance(source, UserFunction):
        return
    judged = {source.metrics[0].name: criterion, **source.criteria}
    for metric in source.metrics:
        target = judged.get(metric.name)
        if target is not None and target.higher_is_better != metric.higher_is_better:
            better = "higher" if metric.higher_is_better else "lower"
            raise CriterionError(
                f"Of metric {metric.name!r} {better} is better, but the criterion has "
                f"higher_is_better={target.higher_is_better}. Set higher_is_better={metric.higher_is_better}"
            )


def _targets(criteria: Mapping[str, Criterion]) -> str:
    targets = "; ".join(f"{name}: {criterion}" for name, criterion in sorted(criteria.items()))
    return f", targets {targets}" if targets else ""


def read_score(result: object) -> dict[str, float]:
    """Convert what an ``eval_fn`` returned to numbers by name; a plain number is called ``accuracy``.

    Raises:
        EvaluationFunctionError: It is no finite number and no dict of them.
    """
    if isinstance(result, Mapping):
        if not result:
            raise EvaluationFunctionError(
                "eval_fn must return a number, or numbers by name, but returned an empty dict"
            )
        return {str(name): _number(value, f"eval_fn's {name!r}") for name, value in result.items()}
    return {"accuracy": _number(result, "What eval_fn returns")}


def _number(value: object, what: str) -> float:
    item = value
    shape = getattr(value, "shape", None)
    if shape is not None and not isinstance(value, np.generic):
        if tuple(shape) != ():
            raise EvaluationFunctionError(f"{what} must be one number, but it is an array of shape {tuple(shape)}")
        item = value.item()  # type: ignore[attr-defined]  # 0-d arrays and tensors of any framework
    if value is None:
        raise EvaluationFunctionError(f"{what} must be a number, but it is None. Is a `return` missing?")
    if isinstance(item, (bool, np.bool_)) or not isinstance(item, numbers.Real):
        raise EvaluationFunctionError(f"{what} must be a number, but it is {item!r}, a {type(value).__name__}")
    try:
        number = float(item)
    except OverflowError:
        raise EvaluationFunctionError(f"{what} must fit a float, at most 1.8e308, but has more digits") from None
    if not math.isfinite(number):
        raise EvaluationFunctionError(f"{what} must be a finite number, but it is {number}")
    return number
