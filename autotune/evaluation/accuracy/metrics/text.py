"""Metrics of language models and of extractive question answering."""

from __future__ import annotations

import collections
import math
import re
import string
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.errors import DataError
from autotune.evaluation.accuracy.metrics.classification import probabilities
from autotune.evaluation.accuracy.metrics.metric import MeanMetric, Metric, output_at
from autotune.notes import counted


class Perplexity(Metric):
    """Exponential of the mean negative log-likelihood of a token, over all tokens of all samples.

    Args:
        output: Index of the output, shape (samples, tokens, vocabulary).
        logits: The output is logits; else it is probabilities.
        shift: The output at one position predicts the label at the next one, as causal models do.
        ignore: A label that does not count.
    """

    name = "perplexity"
    higher_is_better = False

    def __init__(self, output: int = 0, logits: bool = True, shift: bool = True, ignore: int = -100) -> None:
        self._output = output
        self._logits = logits
        self._shift = shift
        self._ignore = ignore

    def records(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """Summed negative log-likelihood and number of tokens, shape (samples, 2)."""
        scores = np.asarray(output_at(outputs, self._output, self.name), np.float64)
        tokens = np.asarray(labels)
        if scores.ndim != 3 or tokens.shape != scores.shape[:2] or tokens.dtype.kind not in "iu":
            raise DataError(
                f"Metric {self.name!r} needs an output of shape (samples, tokens, vocabulary) and integer labels of "
                f"shape (samples, tokens), but got {scores.shape} and {tokens.dtype} {tokens.shape}"
            )
        if self._shift:
            scores, tokens = scores[:, :-1], tokens[:, 1:]
        counted = tokens != self._ignore
        if counted.any() and not 0 <= tokens[counted].min() <= tokens[counted].max() < scores.shape[2]:
            raise DataError(f"Metric {self.name!r} needs labels below the vocabulary's size {scores.shape[2]}")
        chances = probabilities(scores, self.name, logits=self._logits)
        own = np.take_along_axis(chances, np.where(counted, tokens, 0)[:, :, None], axis=2)[:, :, 0]
        surprise = -np.log(np.maximum(own, np.finfo(np.float64).tiny))
        return np.column_stack([(surprise * counted).sum(axis=1), counted.sum(axis=1)])

    def figure(self, records: Array) -> float:
        """The figure, at least 1; NaN where no token counts."""
        surprise, tokens = records.sum(axis=0)
        return math.exp(min(700.0, surprise / tokens)) if tokens > 0 else math.nan


Decode = Callable[[tuple[Array, ...], Mapping[str, Any]], Sequence[str]]
"""Makes each sample's answer from a batch of outputs and labels."""


class _Squad(MeanMetric):
    """A score of each answer against the best of the accepted ones.

    Labels are a dict with ``answers``, a list of accepted strings for each sample. For the built-in way from the two
    outputs to an answer they also have ``context``, a string for each sample, and ``offsets`` of shape (samples,
    tokens, 2): first and last character plus one of each token in the context, equal where a token is not of it.

    Args:
        start: Index of the output with the scores of first tokens, shape (samples, tokens).
        end: Index of the output with the scores of last tokens.
        longest: Most tokens in an answer.
        decode: Makes the answers instead: ``decode(outputs, labels)`` gives a string for each sample.
    """

    def __init__(self, start: int = 0, end: int = 1, longest: int = 30, decode: Decode | None = None) -> None:
        self._start = start
        self._end = end
        self._longest = longest
        self._decode = decode

    def scores(self, outputs: tuple[Array, ...], labels: Any, reference: Array | None) -> Array:  # noqa: ARG002
        """The score of each answer."""
        needed = {"answers"} if self._decode is not None else {"answers", "context", "offsets"}
        if not isinstance(labels, Mapping) or not needed <= set(labels):
            raise DataError(f"Metric {self.name!r} needs labels as a dict with {sorted(needed)}")
        answers = self._decode(outputs, labels) if self._decode is not None else self._spans(outputs, labels)
        accepted = labels["answers"]
        if len(answers) != len(accepted):
            raise DataError(
                f"Metric {self.name!r} got {counted(len(answers), 'answer')} for {counted(len(accepted), 'sample')}"
            )
        pairs = zip(answers, accepted, strict=True)
        return np.array([max(self._score(answer, one) for one in some or [""]) for answer, some in pairs], np.float64)

    @abstractmethod
    def _score(self, answer: str, accepted: str) -> float: ...

    def _spans(self, outputs: tuple[Array, ...], labels: Mapping[str, Any]) -> list[str]:
        """The span of the context with the highest sum of scores, not longer than ``longest`` tokens."""
        starts = output_at(outputs, self._start, self.name)
        ends = output_at(outputs, self._end, self.name)
        offsets = np.asarray(labels["offsets"])
        if starts.ndim != 2 or starts.shape != ends.shape or offsets.shape != (*starts.shape, 2):
            raise DataError(
                f"Metric {self.name!r} needs two outputs of shape (samples, tokens) and offsets of shape (samples, "
                f"tokens, 2), but got {starts.shape}, {ends.shape} and {offsets.shape}"
            )
        tokens = starts.shape[1]
        possible = np.triu(np.ones((tokens, tokens), bool)) & ~np.triu(np.ones((tokens, tokens), bool), self._longest)
        answers = []
        for first, last, offset, context in zip(starts, ends, offsets, labels["context"], strict=True):
            inside = offset[:, 1] > offset[:, 0]
            sums = np.where(possible & inside[:, None] & inside[None, :], first[:, None] + last[None, :], -np.inf)
            begin, end = np.unravel_index(int(sums.argmax()), sums.shape)
            answers.append(context[offset[begin, 0] : offset[end, 1]] if inside.any() else "")
        return answers


class SquadExactMatch(_Squad):
    """The share of answers that equal an accepted one once normalised (Rajpurkar et al. 2016, arXiv 1606.05250)."""

    name = "squad_exact_match"

    def _score(self, answer: str, accepted: str) -> float:
        return float(normalise_answer(answer) == normalise_answer(accepted))


class SquadF1(_Squad):
    """Mean F1 of the words of answer and accepted answer (Rajpurkar et al. 2016, arXiv 1606.05250)."""

    name = "squad_f1"

    def _score(self, answer: str, accepted: str) -> float:
        ours, theirs = normalise_answer(answer).split(), normalise_answer(accepted).split()
        if not ours or not theirs:
            return float(ours == theirs)
        common = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
        return 2 * common / (len(ours) + len(theirs))


def normalise_answer(text: str) -> str:
    """Lower case, without punctuation, articles and needless white space."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())
