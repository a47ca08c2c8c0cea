"""How often the interval of the loss covers the truth, over simulated searches whose truth is known.

Run from the root of the repository: ``python benchmarks/interval_coverage.py``. A candidate's margin on a sample is
fp32's plus noise and a shift, so that its true loss follows from the normal distribution. Each search draws a data set,
evaluates its candidates through the evaluator's own scorer (once in full, once with early stopping), picks the one with
the least loss, and measures that one on the holdout.

``--wrong-answers`` simulates instead how often a search calls a candidate met that misses the target, and how often it
finds one that keeps it, over the number of its candidates: each judged by itself, with the confidence shared among
them, and with the data held out as well. Each candidate loses and gains answers independently of the others, which is
the worst case for a search: no two of them share their luck. In the last rows only the last candidate keeps the target.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from shared import argument_parser, print_rows, write_result

from autotune.adapter import Feeds, TensorSpec
from autotune.criterion import Criterion, Verdict
from autotune.evaluation.accuracy.intervals import holdout_confidence, mean_loss_interval
from autotune.evaluation.accuracy.metrics import TopK
from autotune.evaluation.accuracy.score import Score
from autotune.evaluation.accuracy.sources import LabelledData
from autotune.evaluation.accuracy.streamed import SampleScorer
from autotune.evaluation.checked import CheckedModel

INPUTS = (TensorSpec(name="index", dtype=np.dtype(np.int64), shape=("n",)),)
OUTPUTS = (TensorSpec(name="logits", dtype=np.dtype(np.float64), shape=("n", 2)),)
MEAN_MARGIN = 0.8
"""fp32 is right on 79 % of the samples."""


def main() -> None:
    """Simulate and report."""
    parser = argument_parser(__doc__)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=6)
    parser.add_argument("--samples", type=int, default=2500, help="a set too small for a holdout has no such line")
    parser.add_argument(
        "--wrong-answers", action="store_true", help="how often a search is wrong, and finds what is there"
    )
    arguments = parser.parse_args()
    if arguments.wrong_answers:
        rows = wrong_answers(arguments.searches, arguments.samples, arguments.seed)
        print_rows(rows)
        write_result(arguments.json, "wrong_answers", arguments.seed, {"rows": rows})
        return
    covered: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for search in range(arguments.searches):
        for criterion in (Criterion(relative=0.01), Criterion(absolute=0.01)):
            kind = "relative" if criterion.relative is not None else "absolute"
            found = simulate(criterion, arguments.candidates, arguments.samples, arguments.seed + search)
            for what, hits in found.items():
                covered[kind, what].extend(hits)
    rows = [
        {
            "loss": kind,
            "interval": what,
            "intervals": len(hits),
            "coverage": float(np.mean(hits)),
            "standard error": math.sqrt(np.mean(hits) * (1 - np.mean(hits)) / len(hits)),
        }
        for (kind, what), hits in covered.items()
    ]
    print_rows(rows)
    write_result(arguments.json, "interval_coverage", arguments.seed, {"rows": rows})


def simulate(criterion: Criterion, candidates: int, samples: int, seed: int) -> dict[str, list[bool]]:
    """One search: which of its intervals cover the truth."""
    generator = np.random.default_rng(seed)
    margins = MEAN_MARGIN + generator.standard_normal(samples)
    loader = [
        (np.arange(start, min(samples, start + 25)), np.zeros(min(samples, start + 25) - start, np.int64))
        for start in range(0, samples, 25)
    ]
    scorer = SampleScorer(
        LabelledData(loader=loader, metrics=(TopK(),)), criterion, INPUTS, seed=seed, cache=None, key="simulated"
    )
    fp32 = _model(margins)
    scorer.baseline(fp32, _silent)
    found: dict[str, list[bool]] = defaultdict(list)
    measured: list[tuple[float, float, CheckedModel, Score]] = []
    for _ in range(candidates):
        noise, shift = generator.uniform(0.01, 0.3), generator.uniform(0.0, 0.06)
        model = _model(margins + noise * generator.standard_normal(samples) - shift)
        truth = _true_loss(noise, shift, criterion)
        full = scorer.candidate(model, _silent, complete=True, rank=1)
        early = scorer.candidate(model, _silent, complete=False, rank=1)
        found["every candidate in full"].append(_covers(full, truth))
        if early.stopped is not None:
            found["dropped early"].append(_covers(early, truth))
        measured.append((full.loss, truth, model, full))
    _, truth, model, score = min(measured, key=lambda entry: entry[0])
    found["the best of the search, on the same data"].append(_covers(score, truth))
    final = scorer.holdout(fp32, model, _silent, rank=1)
    if final is not None:
        found["the best of the search, on the holdout"].append(_covers(final, truth))
    return found


def wrong_answers(searches: int, samples: int, seed: int) -> list[dict[str, object]]:
    """How often a search returns a candidate as met, by the true losses of its candidates."""
    criterion = Criterion(relative=0.01, confidence=0.95)
    rows: list[dict[str, object]] = []
    cases = [("1.2 %", 0.012, 0.012), ("0.0 %", 0.0, 0.0), ("3 %, the last 0.0 %", 0.03, 0.0)]
    for number, (name, true_loss, last) in enumerate(cases):
        for candidates in (1, 5, 20, 50):
            generator = np.random.default_rng([seed, candidates, number])
            losses = [true_loss] * (candidates - 1) + [last]
            found = np.array([_search(criterion, losses, samples, generator) for _ in range(searches)], float)
            own, shared, held_out = found.mean(axis=0)
            rows.append(
                {
                    "true loss": name,
                    "candidates": candidates,
                    "each by itself": own,
                    "confidence shared": shared,
                    "shared, and not refuted by the holdout": held_out,
                    "standard error at most": 0.5 / math.sqrt(searches),
                }
            )
    return rows


def _search(
    criterion: Criterion, losses: Sequence[float], samples: int, generator: np.random.Generator
) -> tuple[bool, bool, bool]:
    """Whether one search finds a candidate that is met: each judged by itself, shared, and by the holdout too."""
    held = samples // 5
    own = shared = stands = False
    refuted = 0
    for rank, true_loss in enumerate(losses, 1):
        fp32, candidate = _answers(true_loss, samples, generator)
        loss = mean_loss_interval(fp32[held:], candidate[held:], criterion)
        own |= criterion.verdict(0.0, loss) is Verdict.MET
        level = criterion.for_candidate(rank)
        if level.verdict(0.0, mean_loss_interval(fp32[held:], candidate[held:], level)) is not Verdict.MET:
            continue
        shared = True
        # The first that is not refuted is the answer.
        if not stands:
            sure = holdout_confidence(criterion, refuted + 1)
            interval = mean_loss_interval(fp32[:held], candidate[:held], criterion, sure)
            stands = criterion.shown(interval) is not Verdict.MISSED
            refuted += not stands
    return own, shared, stands


def _answers(
    true_loss: float, samples: int, generator: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Right and wrong answers of fp32, right on 88 %, and of a candidate that differs on 2 % and more of them."""
    right, least = 0.88, 0.01
    lost = least + max(0.0, true_loss * right)
    gained = least + max(0.0, -true_loss * right)
    cells = generator.choice(4, size=samples, p=[right - lost, lost, gained, 1 - right - gained])
    return (cells < 2).astype(np.float64), ((cells == 0) | (cells == 2)).astype(np.float64)


def _model(margins: npt.NDArray[np.float64]) -> CheckedModel:
    def run(feeds: Feeds) -> tuple[npt.NDArray[Any], ...]:
        picked = margins[feeds["index"]]
        return (np.column_stack([picked, np.zeros(len(picked))]),)

    return CheckedModel(run, inputs=INPUTS, outputs=OUTPUTS, deadline=None, finite=frozenset({"logits"}))


def _true_loss(noise: float, shift: float, criterion: Criterion) -> float:
    baseline = float(stats.norm.cdf(MEAN_MARGIN))
    candidate = float(stats.norm.cdf((MEAN_MARGIN - shift) / math.sqrt(1 + noise**2)))
    return criterion.loss(baseline, candidate)


def _covers(score: Score, truth: float) -> bool:
    assert score.interval is not None
    return score.interval.low <= truth <= score.interval.high


def _silent(_done: int, _total: int | None) -> None:
    return


if __name__ == "__main__":
    main()
