"""Accuracy and latency of candidates in one evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Array, Execution, Feeds, Runner
from autotune.criterion import Criterion, Interval, Verdict
from autotune.evaluation import LabelledData, UserFunction, create_metric
from autotune.trial import Measurement, TrialState
from tests.evaluation.sources import Make, returning, top1


def test_both_sources_find_the_same_accuracy(problem: Any, make: Make, scored: UserFunction) -> None:
    candidate = problem.disturbed(0.2)
    found = []
    for source in (scored, top1(problem, early_stopping=False)):
        evaluator = make(source)
        baseline = evaluator.baseline()
        evaluation = evaluator.evaluate(candidate)
        assert baseline.speedup == 1.0
        assert baseline.loss == 0.0
        assert evaluation.state is TrialState.COMPLETED
        assert evaluation.measurement.size_bytes == candidate.size_bytes
        assert baseline.accuracy is not None
        assert evaluation.measurement.accuracy is not None
        lost = (baseline.accuracy - evaluation.measurement.accuracy) / baseline.accuracy
        assert evaluation.measurement.loss == pytest.approx(lost)
        found.append((baseline.accuracy, evaluation.measurement.accuracy))
    assert found[0] == pytest.approx(found[1])


def test_the_first_sample_is_announced_once_the_model_is_ready(problem: Any, make: Make, adapter: Any) -> None:
    events: list[object] = []
    opened = adapter.runner

    def runner(*arguments: Any) -> Runner:
        events.append("opened")
        made: Runner = opened(*arguments)
        return made

    adapter.runner = runner
    make(top1(problem), on_progress=lambda *done: events.append(done)).baseline()
    assert events[:2] == ["opened", (0, None)]


def test_labelled_data_gives_an_interval_and_counts_samples(problem: Any, make: Make) -> None:
    evaluator = make(top1(problem), Criterion(relative=0.05, confidence=0.95))
    evaluator.baseline()
    found = evaluator.evaluate(problem.disturbed(0.02)).measurement
    assert found.loss_interval is not None
    assert found.loss is not None
    assert found.loss_interval.low <= found.loss <= found.loss_interval.high
    assert found.samples == found.samples_total == 600
    assert found.metrics == {"top1": found.accuracy}


def test_a_small_set_leaves_the_verdict_undecided(problem: Any, make: Make) -> None:
    small = LabelledData(loader=problem.batches()[:1], metrics=(create_metric("topk"),))
    evaluator = make(small, Criterion(relative=0.01, confidence=0.95))
    evaluator.baseline()
    assert evaluator.evaluate(problem.model).measurement.verdict is Verdict.UNDECIDED


def test_a_slower_candidate_is_pruned_before_its_accuracy(problem: Any, make: Make) -> None:
    calls = []

    def eval_fn(_: object) -> float:
        calls.append(1)
        return 0.9

    evaluator = make(UserFunction(function=eval_fn))
    baseline = evaluator.baseline()
    incumbent = replace(baseline, speedup=50.0, speedup_interval=Interval(low=49.0, high=51.0))
    found = evaluator.evaluate(problem.model, incumbent=incumbent)
    assert found.state is TrialState.PRUNED
    assert found.reason is not None
    assert "slower than the best" in found.reason
    assert found.measurement.accuracy is None
    assert found.measurement.speedup is not None
    assert len(calls) == 1
    asked = evaluator.evaluate(problem.model, incumbent=incumbent, needs_accuracy=True)
    assert asked.state is TrialState.COMPLETED
    assert len(calls) == 2


def test_a_bad_candidate_is_dropped_early_unless_its_accuracy_is_needed(problem: Any, make: Make) -> None:
    evaluator = make(top1(problem))
    evaluator.baseline()
    bad = problem.disturbed(2.0)
    found = evaluator.evaluate(bad)
    full = evaluator.evaluate(bad, needs_accuracy=True)
    assert found.state is TrialState.PRUNED
    assert found.reason is not None
    assert "misses the target, seen after" in found.reason
    assert found.measurement.verdict is full.measurement.verdict is Verdict.MISSED
    assert found.measurement.samples is not None
    assert found.measurement.samples < 300
    assert full.measurement.samples == 600
    assert found.measurement.accuracy == pytest.approx(full.measurement.accuracy, abs=0.15)
    interval = found.measurement.loss_interval
    assert interval is not None
    assert full.measurement.loss is not None
    assert interval.low < full.measurement.loss < interval.high


def test_a_good_candidate_may_be_accepted_early_and_completed(problem: Any, make: Make) -> None:
    evaluator = make(top1(problem, early_acceptance=True), Criterion(relative=0.1))
    evaluator.baseline()
    found = evaluator.evaluate(problem.model)
    assert found.state is TrialState.COMPLETED
    assert found.measurement.verdict is Verdict.MET
    assert found.measurement.samples is not None
    assert found.measurement.samples < 500
    whole = evaluator.complete(problem.model, found.measurement)
    assert whole.samples == 600
    assert whole.loss == 0.0
    assert whole.speedup == found.measurement.speedup
    assert evaluator.complete(problem.model, whole) == whole


def test_the_order_of_the_loader_does_not_matter(problem: Any, make: Make) -> None:
    """Sorted by class, a prefix says nothing of the whole; an iterable keeps its order and is stopped by certainty."""
    order = np.argsort(problem.labels, kind="stable")
    batches = [(problem.inputs[part], problem.labels[part]) for part in np.array_split(order, 12)]

    class Iterable:
        def __iter__(self) -> Iterator[object]:
            return iter(batches)

    candidate = problem.disturbed(0.6)
    found = []
    for loader, memory in ((batches, None), (Iterable(), None), (Iterable(), 0), (batches, 0)):
        source = LabelledData(loader=loader, metrics=(create_metric("topk"),), memory_bytes=memory)
        evaluator = make(source)
        evaluator.baseline()
        partial = evaluator.evaluate(candidate).measurement
        whole = evaluator.evaluate(candidate, needs_accuracy=True).measurement
        assert partial.verdict is whole.verdict is Verdict.MISSED
        found.append(whole.accuracy)
    assert len(set(found)) == 1


def test_how_sure_a_verdict_is_follows_from_the_rank_of_the_candidate(problem: Any, make: Make) -> None:
    criterion = Criterion(relative=0.2, confidence=0.9)
    evaluator = make(top1(problem, holdout=0.25), criterion)
    evaluator.baseline()
    candidate = problem.disturbed(0.1)
    measured = evaluator.evaluate(candidate, rank=5).measurement
    assert measured.rank == 5
    assert measured.loss_interval is not None
    assert measured.loss_interval.confidence == pytest.approx(1 - 2 * 0.1 / 30)
    partial = replace(measured, samples=100)
    assert evaluator.complete(candidate, partial) == measured
    first, third = evaluator.holdout(candidate), evaluator.holdout(candidate, rank=3)
    for final, share in ((first, 2), (third, 12)):
        assert final is not None
        assert final.loss_interval is not None
        assert final.loss_interval.confidence == pytest.approx(1 - 0.2 / share)


def test_records_of_fp32_are_computed_once_per_workspace(problem: Any, make: Make, tmp_path: Path) -> None:
    counts: list[int] = []

    class Counting:
        def __init__(self, adapter: Any) -> None:
            self._adapter = adapter

        def runner(self, model: Any, execution: Execution) -> Runner:
            runner = self._adapter.runner(model, execution)

            def run(feeds: Feeds) -> tuple[Array, ...]:
                counts.append(len(feeds["x"]))
                return runner(feeds)  # type: ignore[no-any-return]

            return run

    def samples() -> tuple[int, Measurement]:
        counts.clear()
        evaluator = make(top1(problem), cache=tmp_path)
        evaluator._adapter = Counting(evaluator._adapter)  # type: ignore[assignment]
        found = evaluator.baseline()
        return sum(count for count in counts if count > 1), found

    first, measured = samples()
    again, same = samples()
    assert (first, again) == (600, 0)
    assert same.accuracy == measured.accuracy
    (record,) = tmp_path.iterdir()
    record.write_bytes(record.read_bytes()[:100])
    assert samples()[0] == 600


def test_a_resumed_run_judges_as_the_first(problem: Any, make: Make, scored: UserFunction) -> None:
    for source in (scored, top1(problem)):
        evaluator = make(source)
        baseline = evaluator.baseline()
        first = evaluator.evaluate(problem.disturbed(0.2)).measurement
        resumed = make(source)
        resumed.resume(Measurement.from_json(baseline.to_json()))
        assert resumed.evaluate(problem.disturbed(0.2)).measurement.loss == first.loss


def test_finalists_are_raced(problem: Any, make: Make) -> None:
    evaluator = make(returning(0.9))
    result = evaluator.race([problem.repeated(200), problem.model])
    assert result.order == (1, 0)


def test_batches_of_different_size_and_several_labels(make: Make, problem: Any) -> None:
    """Samples of unequal batches are put together anew, whatever the form of their labels."""
    ends = [0, 100, 130, 131, 400, 600]

    def truth(_outputs: Array, labels: dict[str, Any]) -> Array:
        assert isinstance(labels["names"], list)
        return np.asarray(_outputs.argmax(1) == labels["truth"], np.float64)

    loader = [
        (problem.inputs[a:b], {"truth": problem.labels[a:b], "names": ["x"] * (b - a)})
        for a, b in itertools.pairwise(ends)
    ]
    metric = create_metric("per_sample", function=truth, low=0.0, high=1.0)
    evaluator = make(LabelledData(loader=loader, metrics=(metric,)))
    plain = make(top1(problem))
    assert evaluator.baseline().accuracy == plain.baseline().accuracy
    assert evaluator.evaluate(problem.disturbed(2.0)).state is TrialState.PRUNED
