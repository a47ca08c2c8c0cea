"""Recorded answers in place of a model: what an evaluation would have seen, and where it would have ended."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autotune.adapter import Array, Feeds, Runner, TensorSpec
from autotune.criterion import Criterion
from autotune.evaluation.accuracy.metrics import TopK
from autotune.evaluation.accuracy.score import Score
from autotune.evaluation.accuracy.sources import LabelledData
from autotune.evaluation.accuracy.streamed import SampleScorer
from autotune.evaluation.checked import CheckedModel

BATCH = 50

_INPUTS = (TensorSpec(name="sample", dtype=np.dtype(np.int64), shape=("batch",)),)
_OUTPUTS = (TensorSpec(name="scores", dtype=np.dtype(np.float64), shape=("batch", 2)),)

Answers = npt.NDArray[np.bool_]
Margins = npt.NDArray[np.float64]


class RecordedScorer:
    """The tuner's own scorer on answers that are known.

    Every sample is of class 0 of two, and the model's inputs are the positions of the samples.

    Args:
        right: By sample, whether the fp32 model's answer is right.
        margins: By sample, by how much its score misses that of the best rival.
        criterion: The target.
        seed: Seed of the order of samples.
    """

    def __init__(self, right: Answers, margins: Margins, criterion: Criterion, seed: int) -> None:
        samples = np.arange(len(right))
        loader = [
            (part, np.zeros(len(part), np.int64)) for part in np.split(samples, range(BATCH, len(samples), BATCH))
        ]
        self._scorer = SampleScorer(
            LabelledData(loader=loader, metrics=(TopK(),), holdout=0.0),
            criterion,
            _INPUTS,
            seed=seed,
            cache=None,
            key="",
        )
        self._scorer.baseline(_model(right, margins), _ignore)

    def __call__(self, right: Answers) -> Score:
        """Evaluate a candidate with these answers until its verdict is settled."""
        return self._scorer.candidate(_model(right, np.ones(len(right))), _ignore, complete=False, rank=1)


def _model(right: Answers, margins: Margins) -> CheckedModel:
    own = np.where(right, margins, 0.0)
    scores = np.stack([own, np.where(right, 0.0, margins)], axis=1)
    # Where nothing lies between the scores the first class counts as the answer.
    scores[:, 1] += np.where(right, 0.0, 1e-9)

    def run(feeds: Feeds) -> tuple[Array, ...]:
        return (scores[feeds["sample"]],)

    runner: Runner = run
    return CheckedModel(runner, inputs=_INPUTS, outputs=_OUTPUTS, deadline=None, finite=frozenset())


def _ignore(done: int, total: int | None) -> None:
    """Progress that nobody watches."""
