"""Metrics by name."""

from __future__ import annotations

import inspect

from autotune.errors import InputError
from autotune.evaluation.accuracy.metrics.boxes import Boxes
from autotune.evaluation.accuracy.metrics.classification import F1, LogLoss, Matthews, Precision, Recall, RocAuc
from autotune.evaluation.accuracy.metrics.custom import FigureFunction, SampleFunction
from autotune.evaluation.accuracy.metrics.detection import MeanAveragePrecision
from autotune.evaluation.accuracy.metrics.label_free import Agreement, CosineSimilarity, Fidelity
from autotune.evaluation.accuracy.metrics.metric import MeanMetric, Metric
from autotune.evaluation.accuracy.metrics.regression import (
    R2,
    MeanAbsoluteError,
    MeanSquaredError,
    Pearson,
    RootMeanSquaredError,
    Spearman,
)
from autotune.evaluation.accuracy.metrics.text import Perplexity, SquadExactMatch, SquadF1
from autotune.evaluation.accuracy.metrics.topk import TopK
from autotune.suggestion import suggestion

METRICS: dict[str, type[Metric]] = {
    "topk": TopK,
    "f1": F1,
    "precision": Precision,
    "recall": Recall,
    "roc_auc": RocAuc,
    "log_loss": LogLoss,
    "matthews": Matthews,
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "rmse": RootMeanSquaredError,
    "r2": R2,
    "pearson": Pearson,
    "spearman": Spearman,
    "agreement": Agreement,
    "cosine": CosineSimilarity,
    "fidelity": Fidelity,
    "boxes": Boxes,
    "map": MeanAveragePrecision,
    "squad_exact_match": SquadExactMatch,
    "squad_f1": SquadF1,
    "perplexity": Perplexity,
    "per_sample": SampleFunction,
    "figure": FigureFunction,
}
"""Every metric by the name that an experiment file uses."""


def create_metric(name: str, **options: object) -> Metric:
    """Make a metric from its name and its constructor's options.

    Raises:
        InputError: The name is unknown, or the metric has no such option or needs one that is missing.
    """
    if name not in METRICS:
        raise InputError(f"There is no metric {name!r}{suggestion(name, METRICS)}. Known: {', '.join(sorted(METRICS))}")
    made = METRICS[name]
    parameters = inspect.signature(made).parameters
    for option, value in options.items():
        if option not in parameters:
            known = ", ".join(parameters) or "none"
            hint = suggestion(option, parameters)
            raise InputError(f"Metric {name!r} has no option {option!r}{hint}; its options: {known}")
        _check_type(name, option, value, str(parameters[option].annotation))
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in options:
            raise InputError(f"Metric {name!r} needs the option {key!r}")
    return made(**options)


_OPTION_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "bool": ("true or false", (bool,)),
    "str": ("a word", (str,)),
}


def _check_type(metric: str, option: str, value: object, annotation: str) -> None:
    """See that an option from an experiment file is of the type that the constructor declares."""
    if annotation not in _OPTION_TYPES:
        return
    what, types = _OPTION_TYPES[annotation]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise InputError(f"Option {option!r} of metric {metric!r} must be {what}, but got {value!r}")


__all__ = [
    "METRICS",
    "FigureFunction",
    "MeanMetric",
    "Metric",
    "SampleFunction",
    "TopK",
    "create_metric",
]
