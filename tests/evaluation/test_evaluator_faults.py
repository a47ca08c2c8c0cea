"""Scores, outputs and labels that an evaluation refuses, and those that it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Array
from autotune.criterion import Criterion
from autotune.errors import (
    CriterionError,
    DataError,
    DeadlineReached,
    EvaluationFunctionError,
    OutputError,
    TrialError,
)
from autotune.evaluation import LabelledData, UserFunction, create_metric
from tests.evaluation.sources import Make, returning


def test_outputs_that_fp32_leaves_infinite_may_be_so(problem: Any, make: Make) -> None:
    """A mask of -inf is none of a candidate's faults; the same candidate is one where fp32 stays finite."""
    masked = problem.constant(float("-inf"))

    def eval_fn(model: Callable[[object], Array]) -> float:
        model(np.abs(problem.inputs))
        return 0.9

    evaluator = make(UserFunction(function=eval_fn), model=masked)
    evaluator.baseline()
    assert evaluator.evaluate(masked).measurement.accuracy == 0.9
    finite = make(UserFunction(function=eval_fn))
    finite.baseline()
    with pytest.raises(OutputError, match="'logits' must be finite"):
        finite.evaluate(masked)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "None. Is a `return` missing"),
        (float("nan"), "finite"),
        ("0.9", "must be a number"),
        (True, "must be a number"),
        (np.zeros(3), r"array of shape \(3,\)"),
        ({}, "empty dict"),
        ({"a": None}, "eval_fn's 'a'"),
    ],
)
def test_what_is_no_score_is_refused(make: Make, value: object, message: str) -> None:
    with pytest.raises(EvaluationFunctionError, match=message):
        make(returning(value)).baseline()


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(3), np.array(0.5)])
def test_what_is_a_score_is_taken(make: Make, value: object) -> None:
    assert make(returning(value)).baseline().accuracy == pytest.approx(float(value))  # type: ignore[arg-type]


def test_a_bug_in_eval_fn_shows_on_the_baseline_and_fails_a_trial(make: Make, problem: Any) -> None:
    def broken(_: object) -> float:
        raise KeyError("labels")

    with pytest.raises(KeyError, match="labels") as caught:
        make(UserFunction(function=broken)).baseline()
    assert caught.traceback[-1].name == "broken"

    answers = iter([0.9])
    evaluator = make(UserFunction(function=lambda _: next(answers)))
    evaluator.baseline()
    with pytest.raises(TrialError, match="eval_fn failed on this candidate: StopIteration") as failed:
        evaluator.evaluate(problem.model)
    assert isinstance(failed.value.__cause__, StopIteration)


def test_a_zero_baseline_has_no_relative_loss(make: Make) -> None:
    with pytest.raises(CriterionError, match="positive baseline"):
        make(returning(0.0)).baseline()
    assert make(returning(0.0), Criterion(absolute=0.1)).baseline().accuracy == 0.0


def test_a_deadline_passes_through_the_users_function(make: Make, problem: Any) -> None:
    def eval_fn(model: Callable[[object], Array]) -> float:
        try:
            while True:
                model(problem.inputs[:1])
        except Exception:
            return 0.9

    with pytest.raises(DeadlineReached):
        make(UserFunction(function=eval_fn)).baseline(deadline=time.monotonic() + 0.1)


def test_wrong_outputs_are_named(make: Make, problem: Any, scored: UserFunction) -> None:
    evaluator = make(scored)
    evaluator.baseline()
    with pytest.raises(OutputError, match=r"'logits' must have the shape \(1, 5\) of the fp32 model's"):
        evaluator.evaluate(problem.widened())
    poisoned = problem.disturbed(float("nan"))
    with pytest.raises(OutputError, match="'logits' must be finite"):
        evaluator.evaluate(poisoned)


def test_labels_that_do_not_match_are_named(make: Make, problem: Any) -> None:
    short = [(inputs, labels[:-1]) for inputs, labels in problem.batches()]
    with pytest.raises(DataError, match="50 samples, but 49 labels"):
        make(LabelledData(loader=short, metrics=(create_metric("topk"),))).baseline()
    with pytest.raises(DataError, match="only once"):
        make(LabelledData(loader=iter(problem.batches()), metrics=(create_metric("topk"),))).baseline()
