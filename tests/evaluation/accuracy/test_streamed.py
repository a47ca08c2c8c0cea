"""The scores of a candidate after a partial and a full evaluation, and how sure they are."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Feeds, TensorSpec
from autotune.criterion import Criterion, Verdict
from autotune.evaluation import LabelledData, create_metric
from autotune.evaluation.accuracy.intervals import mean_loss_interval
from autotune.evaluation.accuracy.metrics import Metric, TopK
from autotune.evaluation.accuracy.score import Score, worst
from autotune.evaluation.accuracy.streamed import SampleScorer
from autotune.evaluation.checked import CheckedModel

Array = np.ndarray[Any, Any]
INPUTS = (TensorSpec(name="index", dtype=np.dtype(np.int64), shape=("n",)),)
OUTPUTS = (TensorSpec(name="logits", dtype=np.dtype(np.float64), shape=("n", 2)),)


def model(scores: Array) -> CheckedModel:
    """A model that answers each sample with its score and, as a second output, none: class 0 is right above zero."""

    def run(feeds: Feeds) -> tuple[Array, ...]:
        picked = scores[feeds["index"]]
        return (np.column_stack([picked, np.zeros(len(picked))]),)

    return CheckedModel(run, inputs=INPUTS, outputs=OUTPUTS, deadline=None, finite=frozenset({"logits"}))


def silent(_done: int, _total: int | None) -> None:
    return


def scorer(scores: Array, criterion: Criterion, *metrics: Metric, **options: Any) -> SampleScorer:
    """A scorer whose fp32 model has these scores."""
    count = len(scores)
    loader = [
        (np.arange(start, min(count, start + 25)), np.zeros(min(count, start + 25) - start, np.int64))
        for start in range(0, count, 25)
    ]
    source = LabelledData(loader=loader, metrics=metrics or (TopK(),), **options)
    made = SampleScorer(source, criterion, INPUTS, seed=0, cache=None, key="scripted")
    made.baseline(model(scores), silent)
    return made


def score(of: SampleScorer, scores: Array, *, complete: bool = False, rank: int = 1) -> Score:
    return of.candidate(model(scores), silent, complete=complete, rank=rank)


def flipped(scores: Array, count: int) -> Array:
    """The scores with ``count`` right answers turned wrong, spread over the set."""
    changed = scores.copy()
    right = np.flatnonzero(scores > 0)
    changed[right[np.linspace(0, len(right) - 1, count).astype(int)]] *= -1
    return changed


def half_right(count: int = 1000) -> Array:
    return np.random.default_rng(0).permutation(np.repeat([1.0, -1.0], count // 2))


@pytest.mark.parametrize("order", list(itertools.permutations(Verdict)))
def test_the_worst_verdict_is_the_verdict(order: tuple[Verdict, ...]) -> None:
    assert worst(list(order)) is Verdict.MISSED
    assert worst([each for each in order if each is not Verdict.MISSED]) is Verdict.UNDECIDED
    assert worst([Verdict.MET, Verdict.MET]) is worst([]) is Verdict.MET


def test_a_relative_target_is_a_share_of_fp32s_own_figure() -> None:
    """fp32 is right on half: 10 % relative is 50 of 1,000 answers. 70 lost miss it, early or not; 30 keep it."""
    fp32 = half_right()
    relative = scorer(fp32, Criterion(relative=0.1), early_acceptance=True)
    for lost, verdict in ((70, Verdict.MISSED), (30, Verdict.MET)):
        assert score(relative, flipped(fp32, lost)).verdict is verdict
        assert score(relative, flipped(fp32, lost), complete=True).verdict is verdict
    absolute = scorer(fp32, Criterion(absolute=0.1), early_acceptance=True)
    assert score(absolute, flipped(fp32, 70)).verdict is Verdict.MET


def test_a_relative_target_of_a_figure_far_above_one() -> None:
    """Scores between 0 and 100 with a mean of 50: 2 % lost is one per sample, and far from the 10 % that may be."""

    def own(outputs: Any, _labels: Any) -> Any:
        return outputs[:, 0]

    metric = create_metric("per_sample", function=own, low=0.0, high=100.0)
    fp32 = np.random.default_rng(1).uniform(20.0, 80.0, 1000)
    found = score(scorer(fp32, Criterion(relative=0.1), metric), 0.98 * fp32)
    assert (found.verdict, found.samples) == (Verdict.MET, 1000)
    assert found.loss == pytest.approx(0.02)


def test_with_several_targets_nothing_is_accepted_before_all_are_known() -> None:
    """The judged figure keeps its target at once; the other one misses, which the last samples tell."""
    fp32 = half_right()
    criteria = {"agreement": Criterion(absolute=0.001)}
    metrics = (TopK(), create_metric("agreement"))
    loose = Criterion(absolute=0.3)
    both = scorer(fp32, loose, *metrics, criteria=criteria, early_acceptance=True)
    found = score(both, flipped(fp32, 10))
    assert (found.verdict, found.samples) == (Verdict.MISSED, 1000)
    alone = score(scorer(fp32, loose, TopK(), early_acceptance=True), flipped(fp32, 10))
    assert alone.verdict is Verdict.MET
    assert alone.samples is not None
    assert alone.samples < 1000


def test_with_a_confidence_nothing_is_accepted_early() -> None:
    fp32 = half_right()
    sure = scorer(fp32, Criterion(absolute=0.3, confidence=0.95), early_acceptance=True)
    found = score(sure, flipped(fp32, 10))
    assert (found.verdict, found.samples) == (Verdict.MET, 1000)


@pytest.mark.parametrize("criterion", [Criterion(relative=0.01), Criterion(absolute=0.01, confidence=0.9)])
def test_the_interval_of_an_early_end_holds_both_kinds_of_chance(
    criterion: Criterion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the samples which were not seen, and that of the whole set, which is itself drawn."""
    fp32 = half_right()
    judge = scorer(fp32, criterion)
    lost, variance, squares = 120.0, 400.0, 150.0
    monkeypatch.setattr(
        "autotune.evaluation.accuracy.streamed.StoppingRule.estimate", lambda _self: (lost, variance, squares)
    )
    found = score(judge, np.full(1000, -1.0))
    assert found.stopped is not None
    assert found.interval is not None
    unit = 0.5 if criterion.relative is not None else 1.0
    deviation = math.sqrt(squares - lost**2 / 1000 + variance) / 1000 / unit
    confidence = found.interval.confidence
    assert confidence == pytest.approx(0.95 if criterion.confidence is None else 1 - 2 * 0.1 / 2)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * deviation
    assert found.loss == pytest.approx(0.12 / unit)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.12 / unit - half, 0.12 / unit + half))


def test_the_later_a_candidate_the_surer_its_verdict_must_be() -> None:
    """4 of 1,000 answers lost and 1 % allowed: enough for the first of a search, not for the twentieth."""
    fp32 = np.where(np.arange(1000) < 800, 1.0, -1.0)
    criterion = Criterion(absolute=0.01, confidence=0.9)
    judge, changed = scorer(fp32, criterion), flipped(fp32, 3)
    first, twentieth = (score(judge, changed, rank=rank) for rank in (1, 20))
    assert (first.verdict, first.rank) == (Verdict.MET, 1)
    assert (twentieth.verdict, twentieth.rank) == (Verdict.UNDECIDED, 20)
    right = np.where(fp32 > 0, 1.0, 0.0)
    for found, rank in ((first, 1), (twentieth, 20)):
        expected = mean_loss_interval(right, np.where(changed > 0, 1.0, 0.0), criterion.for_candidate(rank))
        assert found.interval == expected
    assert score(judge, changed, complete=True, rank=20).interval == twentieth.interval
    # Without a confidence the measured figure decides, whichever candidate it is.
    plain = scorer(fp32, Criterion(absolute=0.01))
    assert score(plain, changed, rank=1).interval == score(plain, changed, rank=20).interval


def test_the_data_held_out_says_what_its_interval_shows() -> None:
    fp32 = np.where(np.random.default_rng(2).random(2000) < 0.8, 1.0, -1.0)
    judge = scorer(fp32, Criterion(absolute=0.05), holdout=0.5)
    reference = model(fp32)

    def held_out(lost: int, rank: int = 1) -> Score:
        found = judge.holdout(reference, model(flipped(fp32, lost)), silent, rank=rank)
        assert found is not None
        return found

    assert held_out(20).verdict is Verdict.MET
    assert held_out(250).verdict is Verdict.MISSED
    close = [held_out(110), held_out(130, rank=1), held_out(130, rank=30)]
    assert [each.verdict for each in close[::2]] == [Verdict.UNDECIDED, Verdict.UNDECIDED]
    first, last = close[1].interval, close[2].interval
    assert first is not None
    assert last is not None
    assert last.low < first.low < first.high < last.high
    assert last.confidence > first.confidence == pytest.approx(0.975)


def test_on_the_data_held_out_each_target_counts() -> None:
    fp32 = half_right(2000)
    judge = scorer(
        fp32, Criterion(absolute=0.5), TopK(), create_metric("agreement"),
        criteria={"agreement": Criterion(absolute=0.01)}, holdout=0.5,
    )  # fmt: skip
    found = judge.holdout(model(fp32), model(flipped(fp32, 200)), silent, rank=1)
    assert found is not None
    assert found.verdict is Verdict.MISSED


@pytest.mark.parametrize("metrics", [(TopK(),), (create_metric("agreement"),)])
def test_what_an_early_end_saw_is_not_evaluated_again(metrics: tuple[Metric, ...]) -> None:
    """The winner was accepted after a part of the samples; to see the rest took as long as to see all of them."""
    scores = half_right(4000)
    candidate = flipped(scores, 2)
    of = scorer(scores, Criterion(relative=0.1), *metrics, holdout=0.0, early_acceptance=True)
    ran: list[int] = []

    def run(feeds: Feeds) -> tuple[Array, ...]:
        ran.extend(feeds["index"].tolist())
        picked = candidate[feeds["index"]]
        return (np.column_stack([picked, np.zeros(len(picked))]),)

    def again(key: str | None) -> CheckedModel:
        finite = frozenset({"logits"})
        return CheckedModel(run, inputs=INPUTS, outputs=OUTPUTS, deadline=None, finite=finite, key=key)

    early = of.candidate(again("it"), silent, complete=False, rank=1)
    assert early.samples is not None
    assert early.samples < 4000
    whole = of.candidate(again("it"), silent, complete=True, rank=1)
    assert sorted(ran) == list(range(4000))
    ran.clear()
    assert of.candidate(again(None), silent, complete=True, rank=1) == whole
    assert of.candidate(again("another"), silent, complete=True, rank=1) == whole
    assert len(ran) == 8000
