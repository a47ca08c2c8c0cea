"""Metrics by name."""

from __future__ import annotations

import inspect

from autotune.errors import InputError
from autotune.evaluation.metrics.metric import MeanMetric, Metric
from autotune.evaluation.metrics.topk import TopK
from autotune.nearest import suggestion

METRICS: dict[str, type[Metric]] = {
    "topk": TopK,
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
    for option in options:
        if option not in parameters:
            known = ", ".join(parameters) or "none"
            hint = suggestion(option, parameters)
            raise InputError(f"Metric {name!r} has no option {option!r}{hint}; its options: {known}")
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in options:
            raise InputError(f"Metric {name!r} needs the option {key!r}")
    return made(**options)


__all__ = ["METRICS", "MeanMetric", "Metric", "TopK", "create_metric"]
