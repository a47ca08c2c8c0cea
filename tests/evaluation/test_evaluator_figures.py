"""Held-out data, several metrics and their targets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotune.criterion import Criterion, Verdict
from autotune.errors import (
    CriterionError,
    DataError,
    EvaluationFunctionError,
    InputError,
)
from autotune.evaluation import LabelledData, Metric, UserFunction, create_metric
from autotune.evaluation.accuracy.metrics import SampleFunction
from autotune.trial import TrialState
from tests.evaluation.sources import Make, returning, top1


def test_the_holdout_is_not_searched_on(make: Make, problem: Any) -> None:
    evaluator = make(top1(problem, holdout=0.25))
    baseline = evaluator.baseline()
    assert baseline.samples == 450
    final = evaluator.holdout(problem.disturbed(0.1))
    assert final is not None
    assert final.samples == final.samples_total == 150
    assert final.loss_interval is not None
    off = make(top1(problem))
    assert off.baseline().samples == 600
    assert off.holdout(problem.model) is None


def test_a_large_set_is_held_out_by_default(problem: Any, make: Make) -> None:
    many = [(np.tile(inputs, (4, 1)), np.tile(labels, 4)) for inputs, labels in problem.batches()]
    evaluator = make(LabelledData(loader=many, metrics=(create_metric("topk"),)))
    assert evaluator.baseline().samples == 1920


@pytest.mark.parametrize(("holdout", "message"), [(1.0, "holdout < 1"), (-0.1, "holdout < 1"), (0.0001, "both sides")])
def test_a_holdout_must_fit_the_data(problem: Any, make: Make, holdout: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(top1(problem, holdout=holdout)).baseline()


def test_several_metrics_have_targets_of_their_own(problem: Any, make: Make) -> None:
    metrics = (create_metric("topk", k=3), create_metric("topk"), create_metric("f1"))
    source = LabelledData(
        loader=problem.batches(), metrics=metrics, criteria={"top1": Criterion(relative=0.0)}, early_stopping=False
    )
    evaluator = make(source)
    evaluator.baseline()
    found = evaluator.evaluate(problem.disturbed(0.3)).measurement
    assert set(found.metrics) == {"top3", "top1", "f1_macro"}
    assert found.loss is not None
    assert found.loss <= 0.05
    assert found.verdict is Verdict.MISSED


def test_figures_of_a_function_have_targets_too(make: Make, problem: Any) -> None:
    figures = iter([{"a": 0.9, "b": 10.0}, {"a": 0.9, "b": 14.0}])
    source = UserFunction(
        function=lambda _: next(figures), criteria={"b": Criterion(absolute=2.0, higher_is_better=False)}
    )
    evaluator = make(source)
    evaluator.baseline()
    found = evaluator.evaluate(problem.model).measurement
    assert found.loss == 0.0
    assert found.verdict is Verdict.MISSED
    with pytest.raises(EvaluationFunctionError, match="must return 'c'"):
        make(replace(returning(0.5), criteria={"c": Criterion()})).baseline()


def test_label_free_metrics_need_no_labels(problem: Any, make: Make) -> None:
    loader = [inputs for inputs, _ in problem.batches()]
    source = LabelledData(loader=loader, metrics=(create_metric("agreement"), create_metric("cosine")), label_free=True)
    evaluator = make(source)
    assert evaluator.baseline().metrics == pytest.approx({"agreement": 1.0, "cosine": 1.0})
    close = evaluator.evaluate(problem.disturbed(0.02)).measurement
    assert close.accuracy is not None
    assert 0.95 < close.accuracy <= 1.0
    assert evaluator.evaluate(problem.disturbed(2.0)).state is TrialState.PRUNED
    with pytest.raises(InputError, match="label-free"):
        LabelledData(loader=loader, metrics=(create_metric("topk"),), label_free=True)


def test_metric_and_criterion_must_agree_on_what_is_better(problem: Any, make: Make) -> None:
    with pytest.raises(CriterionError, match="lower is better"):
        make(LabelledData(loader=problem.batches(), metrics=(create_metric("mse"),)))


def test_a_sources_identity_tells_metrics_options_and_targets_apart(problem: Any) -> None:
    def identity(*metrics: Metric, **options: Any) -> str:
        return LabelledData(loader=problem.batches(), metrics=metrics, **options).identity

    known = [
        identity(create_metric("f1")),
        identity(create_metric("f1", threshold=0.0)),
        identity(create_metric("f1"), holdout=0.3),
        identity(create_metric("f1"), create_metric("topk", k=2)),
        identity(create_metric("f1"), create_metric("topk", k=2), criteria={"top2": Criterion(absolute=0.1)}),
        identity(create_metric("f1"), create_metric("topk", k=2), criteria={"top2": Criterion(absolute=0.2)}),
    ]
    assert len(set(known)) == len(known)
    assert identity(create_metric("f1", threshold=0.0)) == known[1]


def test_a_function_counts_by_its_name_and_not_by_its_address() -> None:
    def score(outputs: Any, labels: Any) -> Any:  # noqa: ARG001
        return outputs

    assert "score" in SampleFunction(score).identity
    assert hex(id(score)) not in SampleFunction(score).identity
