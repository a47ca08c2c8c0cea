from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Array, Execution, Feeds, Runner
from autotune.criterion import Criterion, Interval, Verdict
from autotune.errors import (
    CriterionError,
    DataError,
    DeadlineReached,
    EvaluationFunctionError,
    InputError,
    OutputError,
    TrialError,
)
from autotune.evaluation import Evaluator, LabelledData, LatencyOptions, Metric, UserFunction, create_metric
from autotune.evaluation.accuracy.metrics import SampleFunction
from autotune.trial import Measurement, TrialState

QUICK = LatencyOptions(warmup=2, min_pairs=10, max_pairs=15, max_seconds=1.0)
Source = UserFunction | LabelledData
Make = Callable[..., Evaluator[Any]]


@pytest.fixture
def make(problem: Any, adapter: Any) -> Make:
    def build(source: Source, criterion: Criterion | None = None, **options: Any) -> Evaluator[Any]:
        settings: dict[str, Any] = {
            "adapter": adapter,
            "model": problem.model,
            "latency": QUICK,
            "feeds": {"x": problem.inputs[:1]},
            "seed": 0,
            **options,
        }
        return Evaluator(source=source, criterion=criterion or Criterion(relative=0.05), **settings)

    return build


@pytest.fixture
def scored(problem: Any) -> UserFunction:
    def eval_fn(model: Callable[[object], Array]) -> float:
        return float((model(problem.inputs).argmax(1) == problem.labels).mean())

    return UserFunction(function=eval_fn)


def top1(problem: Any, **options: Any) -> LabelledData:
    return LabelledData(loader=problem.batches(), metrics=(create_metric("topk"),), **options)


def returning(value: object) -> UserFunction:
    return UserFunction(function=lambda _: value)


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


def test_metric_and_criterion_must_agree_on_what_is_better(problem: Any, make: Make) -> None:
    with pytest.raises(CriterionError, match="lower is better"):
        make(LabelledData(loader=problem.batches(), metrics=(create_metric("mse"),)))


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
