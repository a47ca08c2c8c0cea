"""Accuracy sources of the tests of the evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autotune.evaluation import Evaluator, LabelledData, LatencyOptions, UserFunction, create_metric

QUICK = LatencyOptions(warmup=2, min_pairs=10, max_pairs=15, max_seconds=1.0)


Source = UserFunction | LabelledData


Make = Callable[..., Evaluator[Any]]


def top1(problem: Any, **options: Any) -> LabelledData:
    return LabelledData(loader=problem.batches(), metrics=(create_metric("topk"),), **options)


def returning(value: object) -> UserFunction:
    return UserFunction(function=lambda _: value)
