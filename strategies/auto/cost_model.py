"""The cost model of ``auto``: a profile, corrected by measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autotune.config import Precision
from autotune.strategies.auto.prediction import LinearModel, Vector
from autotune.strategies.auto.program import Conversions, Flags, Program
from autotune.strategies.auto.steps import Step, certain_gaps, gap_between, latency_of, noise_of
from autotune.strategy import Problem
from autotune.trial import Trial

_TIMING = 0.01
"""Standard deviation of a measured cost whose interval is not known."""


class Costs:
    """Predicts costs, as shares of the baseline's, from the profile and from what was measured.

    A choice is one flag per step, true where it is taken.

    Args:
        problem: The problem whose profile it is.
        steps: The steps from the fastest config towards fp32.
        complete: Whether all of them taken are the baseline, since no other op is quantized.
    """

    def __init__(self, problem: Problem, steps: Sequence[Step], *, complete: bool) -> None:
        n = len(steps)
        self._observed: list[tuple[Flags, float, float]] = []
        if complete:
            self._observed.append((np.ones(n, dtype=bool), 1.0, _TIMING))
        latency = latency_of(problem)
        known = [
            set(latency.get(step.op, ())) >= {step.before.precision, step.after.precision, Precision.FP32}
            for step in steps
        ]
        # A profile that misses most ops would have their return to fp32 cost nothing.
        self.profiled = n > 0 and 2 * sum(known) >= n
        self._gain = np.zeros(n)
        crossing: Mapping[str, float] = {}
        if self.profiled:
            unit = sum(seconds.get(Precision.FP32, 0.0) for seconds in latency.values())
            types = {op.name: op.op_type for op in problem.space.ops}
            noise = noise_of(problem)
            gaps = {
                # Positions: an op with several steps has as many gaps.
                str(i): gap_between(
                    types[step.op],
                    step.after.precision,
                    step.before.precision,
                    latency[step.op],
                    noise.get(step.op, {}),
                )
                for i, (step, have) in enumerate(zip(steps, known, strict=True))
                if have
            }
            certain = certain_gaps(gaps)
            for position, gap in gaps.items():
                # Int8 is the default: that it is faster is believed, that fp32 is must be beyond doubt.
                seconds = gap.seconds if gap.seconds >= 0 else min(certain[position], 0.0)
                self._gain[int(position)] = seconds / unit
            crossing = {op: value / unit for op, value in problem.insights.crossing_latency().items()}
        self._crossing, self._readers, saved = _conversions(problem, steps, crossing)
        self._gain -= saved
        self.conversions = Conversions(n, self._crossing, self._readers)
        self._full = 1.0
        self._model: LinearModel | None = None

    def fastest(self) -> Flags:
        """The steps that the profile says make it faster, by more than its noise and what conversions cost."""
        n = len(self._gain)
        if not self.profiled:
            return np.zeros(n, dtype=bool)
        program = Program(gain=self._gain, loss=np.zeros(n), conversions=self.conversions)
        return program.solve([0.0])[0]

    def add(self, choice: Flags, cost: float, noise: float) -> None:
        """Take in a measured cost and its standard deviation; the first says what the profile's seconds are worth."""
        if self._model is None:
            self._calibrate(choice, cost)
        self._observed.append((choice, cost, noise))
        self._fit()

    def _calibrate(self, choice: Flags, cost: float) -> None:
        int8 = ~choice
        if not self.profiled:
            self._gain = np.full(len(choice), (1.0 - cost) / max(int(int8.sum()), 1))
        measured = 1.0 - cost
        profiled = float(self._gain @ int8) - float(self.conversions.cost(choice[None])[0])
        scale = float(np.clip(measured / profiled, 0.5, 2.0)) if measured * profiled > 0 else 1.0
        self._gain = self._gain * scale
        crossing = {op: value * scale for op, value in self._crossing.items()}
        self.conversions = Conversions(len(choice), crossing, self._readers)
        self._full = cost - float(self._gain @ choice) - float(self.conversions.cost(choice[None])[0])

    def _fit(self) -> None:
        gain, size = self._gain, np.abs(self._gain)
        choices = np.array([choice for choice, *_ in self._observed])
        observed = np.array([cost for _, cost, _ in self._observed])
        std = 0.3 * size + 0.2 * float(size.mean() if len(size) else 0.0) + 1e-6
        self._model = LinearModel(
            mean=np.append(gain, self._full),
            std=np.append(std, 0.02),
            features=_with_constant(choices),
            observed=observed - self.conversions.cost(choices),
            noise=np.array([noise for *_, noise in self._observed]),
        )

    @property
    def gain(self) -> Vector:
        """The cost that each step adds, by the present estimate."""
        return self._gain if self._model is None else self._model.mean[:-1]

    def predict(self, choices: Flags) -> Vector:
        """The cost of each choice; (p, n) to (p,). Measured costs stay as they are: calibration changes no kernel."""
        return self._predicted(choices)[0]

    def improvement(self, choices: Flags, best: float) -> Vector:
        """By how much each choice is expected to cost less than ``best``, what is worse counted as nothing.

        Jones, Schonlau and Welch, Efficient global optimization, J. Global Optimization 13 (1998).
        """
        mean, std = self._predicted(choices)
        std = np.maximum(std, 1e-9)
        gain = best - mean
        from scipy.special import ndtr  # noqa: PLC0415  scipy takes a third of a second, which `import autotune` need not wait

        expected: Vector = gain * ndtr(gain / std) + std * np.exp(-0.5 * (gain / std) ** 2) / math.sqrt(2 * math.pi)
        return expected

    def _predicted(self, choices: Flags) -> tuple[Vector, Vector]:
        """Mean and standard deviation."""
        if self._model is None:
            # Nothing could be timed yet: the profile's word, or else as if int8 took half the time.
            gain = self._gain if self.profiled else np.full(len(self._gain), 0.5 / max(len(self._gain), 1))
            return 1.0 - ~choices @ gain + self.conversions.cost(choices), np.zeros(len(choices))
        mean, std = self._model.predict(_with_constant(choices))
        mean = mean + self.conversions.cost(choices)
        for choice, cost, _ in self._observed:
            same = (choices == choice).all(axis=1)
            mean[same], std[same] = cost, 0.0
        return mean, std


def _conversions(
    problem: Problem, steps: Sequence[Step], crossing: Mapping[str, float]
) -> tuple[dict[int, float], dict[int, list[int]], Vector]:
    """Conversions between the ops: only those in static int8 hand integers on, all others read and write fp32.

    Returns:
        By step, the cost of a conversion of its op's output; by step, the steps of the ops that read it; and by step
        what its taking saves for certain, as the output goes to or comes from an op that never takes integers.
    """
    leaves = {step.op: i for i, step in enumerate(steps) if step.before.precision is Precision.INT8}
    touched = {step.op for step in steps}
    costs: dict[int, float] = {}
    readers: dict[int, list[int]] = {}
    saved = np.zeros(len(steps))
    for op, others in (problem.insights.neighbours() if crossing else {}).items():
        members = [member for member in dict.fromkeys((op, *others)) if member in touched]
        integer = [member for member in members if member in leaves]
        if op not in crossing or op not in touched or not integer:
            continue
        if len(integer) == len(members):
            costs[leaves[op]] = crossing[op]
            readers[leaves[op]] = [leaves[other] for other in others if other in leaves]
        else:
            # The last of them to leave saves the conversion; each is credited its part.
            saved[[leaves[member] for member in integer]] += crossing[op] / len(integer)
    return costs, readers, saved


def timing_noise(trial: Trial, cost: float) -> float:
    """Standard deviation of a measured cost, from the interval of the speedup where there is one."""
    interval = None if trial.measurement is None else trial.measurement.speedup_interval
    if interval is None:
        return _TIMING
    return max(0.2 * _TIMING, cost * (interval.high - interval.low) / (2 * (interval.high + interval.low)))


def _with_constant(choices: Flags) -> Vector:
    """A column of ones after the choices: what a config costs without any step taken."""
    return np.hstack([choices.astype(float), np.ones((len(choices), 1))])
