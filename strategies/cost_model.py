"""What ``auto`` predicts of costs: the profile's word, corrected by what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autotune.config import Precision
from autotune.strategies.prediction import LinearModel, Vector
from autotune.strategies.program import Conversions, Flags, Program
from autotune.strategy import Objective, Problem
from autotune.trial import Trial

_TIMING = 0.01
"""Standard deviation of a measured cost whose interval is not known."""

_DOUBT = 0.15
_RESOLUTION_S = 2e-6
"""An op counts as faster in fp32 only where its profile says so by more than this share and these seconds: profiles of
two models are told apart no better, and count whole microseconds."""


class Costs:
    """Predicts costs, as shares of the baseline's, from the profile and from what was measured.

    A choice is one flag per op of ``ops``, true for fp32.

    Args:
        problem: Whose profile it is.
        ops: Those that can be in fp32.
        complete: Whether there is no other quantized op, so that all of them in fp32 are the baseline.
    """

    def __init__(self, problem: Problem, ops: Sequence[str], *, complete: bool) -> None:
        n = len(ops)
        self._observed: list[tuple[Flags, float, float]] = []
        if complete:
            self._observed.append((np.ones(n, dtype=bool), 1.0, _TIMING))
        latency = problem.insights.op_latency() if problem.objective is Objective.LATENCY else {}
        quantized = {op: problem.space.by_name[op].preferred.precision for op in ops}
        known = [set(latency.get(op, ())) >= {Precision.FP32, quantized[op]} for op in ops]
        # A profile that misses most ops would have their return to fp32 cost nothing.
        self.profiled = n > 0 and 2 * sum(known) >= n
        self._gain = np.zeros(n)
        crossing: Mapping[str, float] = {}
        if self.profiled:
            unit = sum(seconds.get(Precision.FP32, 0.0) for seconds in latency.values())
            seconds = np.array(
                [
                    [latency[op][Precision.FP32], latency[op][quantized[op]]] if have else [0.0, 0.0]
                    for op, have in zip(ops, known, strict=True)
                ]
            )
            gain = (seconds[:, 0] - seconds[:, 1]) / unit
            doubt = (_DOUBT * seconds.min(axis=1) + _RESOLUTION_S) / unit
            self._gain = np.where(gain < 0, np.minimum(gain + doubt, 0.0), gain)
            crossing = {op: value / unit for op, value in problem.insights.crossing_latency().items()}
        position = {op: i for i, op in enumerate(ops)}
        readers = {
            position[op]: [position[reader] for reader in others if reader in position]
            for op, others in (problem.insights.neighbours() if crossing else {}).items()
            if op in position
        }
        self._crossing = {position[op]: value for op, value in crossing.items() if op in position}
        self._readers = readers
        self.conversions = Conversions(n, self._crossing, readers)
        self._full = 1.0
        self._model: LinearModel | None = None

    def fastest(self) -> Flags:
        """The ops that the profile says are faster in fp32, by more than its noise and what conversions cost."""
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
        """What each op adds to the cost in fp32, by what is known now."""
        return self._gain if self._model is None else self._model.mean[:-1]

    def predict(self, choices: Flags) -> Vector:
        """Of each choice; (p, n) to (p,). What was measured is taken as it is: calibration changes no kernel."""
        if self._model is None:
            # Nothing could be timed yet: the profile's word, or else as if int8 took half the time.
            gain = self._gain if self.profiled else np.full(len(self._gain), 0.5 / max(len(self._gain), 1))
            return 1.0 - ~choices @ gain + self.conversions.cost(choices)
        costs: Vector = _with_constant(choices) @ self._model.mean + self.conversions.cost(choices)
        for choice, cost, _ in self._observed:
            costs[(choices == choice).all(axis=1)] = cost
        return costs


def timing_noise(trial: Trial, cost: float) -> float:
    """Standard deviation of a measured cost, from the interval of the speedup where there is one."""
    interval = None if trial.measurement is None else trial.measurement.speedup_interval
    if interval is None:
        return _TIMING
    return max(0.2 * _TIMING, cost * (interval.high - interval.low) / (2 * (interval.high + interval.low)))


def _with_constant(choices: Flags) -> Vector:
    """A column of ones after the choices: what a config costs without any op in fp32."""
    return np.hstack([choices.astype(float), np.ones((len(choices), 1))])
