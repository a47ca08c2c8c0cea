"""The contract of a strategy: given the history, propose the next config, or say that there is none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from autotune.config import Precision, QuantizationConfig
from autotune.criterion import Criterion
from autotune.space import TuningSpace
from autotune.trial import Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


class Objective(StrEnum):
    """The figure that a run optimizes. Strategies see the first three alone."""

    LATENCY = "latency"
    SIZE = "size"
    MEMORY = "memory"
    ACCURACY = "accuracy"
    """Least loss within limits of speed and size."""
    THROUGHPUT = "throughput"
    """Most samples per second of several instances."""

    @property
    def is_about_speed(self) -> bool:
        """Whether a gain is told in times as fast."""
        return self in (Objective.LATENCY, Objective.ACCURACY, Objective.THROUGHPUT)


class Insights(Protocol):
    """Cheap measurements of ops: sensitivity, latency, output error. Each is taken when first asked for, and stored.

    There is a limit to the time that all of it may take, so that a strategy asks for the most useful first.
    """

    def sensitivity(self) -> Mapping[str, float]:
        """By op: the relative error at the model's outputs when this op alone takes its preferred choice.

        The squared error over the squared spread of the outputs (a noise-to-signal ratio), on a few calibration
        samples; parts of an output whose scales lie far apart count alike, see :mod:`autotune.tuning.output_error`. For
        small errors the ratios of several ops add up. Ops that there was no time to tell apart share what they cause.
        """
        ...

    def output_error(self, config: QuantizationConfig) -> float:
        """The same noise-to-signal ratio for any config, on the same few samples; it costs little of an evaluation.

        Infinite for a config that cannot be applied or whose outputs are not finite; not a number where there was no
        time left to measure it.
        """
        ...

    def op_latency(self) -> Mapping[str, Mapping[Precision, float]]:
        """By op and precision: seconds that the op takes in one call, as profiles of whole models give them.

        One profile of the fp32 model, one of the model whose ops all take their preferred choice, and one for each
        further precision that ops worth it offer; conversions between precisions are not part of it. An op that does
        not appear in the first two, or that was fused into another, has no entry; without a profile the mapping is
        empty.
        """
        ...

    def op_latency_noise(self) -> Mapping[str, Mapping[Precision, float]]:
        """By op and precision: standard error of those seconds over repeated profiles; no entry where it is unknown."""
        ...

    def crossing_latency(self) -> Mapping[str, float]:
        """By op: seconds of converting its output between fp32 and int8 once; an op that is not known has no entry."""
        ...

    def neighbours(self) -> Mapping[str, Sequence[str]]:
        """By op: the ops of the space that read its output, directly or through nodes that pass int8 on unchanged.

        Ops whose output no op of the space reads may be left out.
        """
        ...

    def relative_speed(self, config: QuantizationConfig, other: QuantizationConfig) -> tuple[float, float]:
        """How many times as fast ``other`` runs as ``config``: both ends of the interval, from calls in turns.

        Both run without what recipes do to values, which takes seconds and changes no kernel. Zeros where one of them
        cannot be run.
        """
        ...

    def hessian_sensitivity(self, *, labelled: bool = False) -> Mapping[str, float] | None:
        """By op: mean of the Hessian's diagonal in its weights, times their squared quantization error as preferred.

        The Hessian is that of the squared change of the outputs, see :class:`autotune.adapter.Differentiable`. None
        where the adapter cannot differentiate its models; an op without weights has no entry.

        Args:
            labelled: Take the cross entropy with the labels of the calibration data instead.

        Raises:
            DataError: ``labelled``, and the data have no labels, or others than classes.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The problem that a strategy solves; the same object for every call of one run.

    Attributes:
        space: The choices that are allowed.
        criterion: The accuracy target.
        objective: The figure to minimise under it.
        seed: Seed of every random choice.
        insights: Cheap per-op measurements: sensitivity, latency, output error.
    """

    space: TuningSpace
    criterion: Criterion
    objective: Objective
    seed: int
    insights: Insights


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The next config to try.

    Attributes:
        config: The config to try.
        note: Why, in a few words for the trial table.
        needs_accuracy: Ask for the accuracy even of a candidate that is slower than the best so far, which otherwise
            is pruned before its accuracy is evaluated.
    """

    config: QuantizationConfig
    note: str = ""
    needs_accuracy: bool = False


@dataclass(frozen=True, kw_only=True)
class Exhausted:
    """There is nothing left to try.

    Attributes:
        reason: Why, for the report.
    """

    reason: str


Draw: TypeAlias = "Callable[[Mapping[str, BaseDistribution]], Mapping[str, Any]]"
"""Draws a value for each named distribution from the study's sampler; the values are stored with the trial."""


class Strategy(ABC):
    """Proposes configs.

    A strategy keeps no state between calls: what it proposes is a function of the problem and of the trials. That is
    what lets a killed run resume and several workers share one history. Its constructor takes its options, nothing
    else.
    """

    multi_objective: ClassVar[bool] = False
    """Whether the study behind ``draw`` has three values, latency ratio, loss and size, instead of the objective."""

    def sampler(self, problem: Problem, seed: int) -> BaseSampler | None:  # noqa: ARG002
        """The Optuna sampler behind ``draw``; called before every proposal.

        Args:
            problem: The same in every call of one run.
            seed: Derived from the problem's seed and the trial's number, so that a resumed run draws what the
                uninterrupted one would have drawn.

        Returns:
            A sampler, or None for a random one with this seed.
        """
        return None

    @abstractmethod
    def propose(self, problem: Problem, trials: Sequence[Trial], draw: Draw) -> Proposal | Exhausted:
        """Propose the next config; called once per trial.

        Args:
            problem: The same in every call of one run.
            trials: All trials so far by number, the fp32 baseline first; those of other workers may be running.
                Failed ones are among them. A config that is among them is answered from there and costs nothing,
                but a strategy that proposes nothing new many times in a row is taken to be exhausted.
            draw: Draws from the study's sampler.
        """
