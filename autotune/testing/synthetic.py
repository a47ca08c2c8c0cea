"""Evaluators that need no model: what a config would measure is computed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from autotune.config import (
    KL,
    MINMAX,
    MSE,
    PERCENTILE,
    CalibrationAlgorithm,
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    TensorScheme,
)
from autotune.criterion import Criterion
from autotune.errors import ApplyError
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, RecipeSpace, TuningSpace
from autotune.strategy import Objective, Problem
from autotune.trial import Measurement

U8 = TensorScheme(dtype=QuantizedType.U8)
S8 = TensorScheme(dtype=QuantizedType.S8)
PER_CHANNEL = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)
PER_TENSOR = TensorScheme(dtype=QuantizedType.S8, symmetric=True)


def make_space(
    ops: int, *, rich: bool = True, algorithms: tuple[CalibrationAlgorithm, ...] | None = None
) -> TuningSpace:
    """A chain of ops like the ONNX Runtime adapter gives them; not ``rich``: two choices per op, int8 and fp32."""
    offered = algorithms or ((MINMAX, PERCENTILE, KL, MSE) if rich else (MINMAX,))
    int8 = PrecisionSpace(
        precision=Precision.INT8,
        activations=(U8, S8) if rich else (U8,),
        weights=(PER_CHANNEL, PER_TENSOR) if rich else (PER_CHANNEL,),
        algorithms=offered,
    )
    return TuningSpace(
        ops=tuple(
            OpSpace(name=f"op_{i:03}", op_type="Gemm" if i == ops - 1 else "Conv", precisions=(int8, FP32_SPACE))
            for i in range(ops)
        ),
        recipe=RecipeSpace(reduce_range=(False, True) if rich else (False,)),
    )


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """A made-up model: what each op costs and loses in int8, and how these combine.

    Attributes:
        space: The choices that are allowed.
        seconds: By op, its time in fp32 and in int8.
        loss: By op, what its preferred int8 choice loses alone.
        crossing_s: Time of each change of precision along the chain.
        interaction: How much more two int8 neighbours lose together, as a share of their own losses.
        noise: Standard deviation of the measured loss.
        plateau: Losses below this one are not seen.
        further: By op and precision beside int8 and fp32, its time and what it loses alone.
        error_scale: Output error for each unit of loss; nobody is told.
        unseen: Ops of whose loss output errors show only this share, since they disturb what the metric reads alone.
        failing: Configs for which it is true cannot be applied.
        root: Where it is given, fp32 is compared with its own answers: what ops lose is energy, and the loss is so many
            times the square root of their sum.
    """

    space: TuningSpace
    seconds: Mapping[str, tuple[float, float]]
    loss: Mapping[str, float]
    crossing_s: float = 0.0
    interaction: float = 0.0
    noise: float = 0.0
    plateau: float = 0.0
    further: Mapping[str, Mapping[Precision, tuple[float, float]]] = field(default_factory=dict)
    error_scale: float = 1.0
    unseen: Mapping[str, float] = field(default_factory=dict)
    failing: Callable[[QuantizationConfig], bool] = lambda _: False
    root: float | None = None

    def loss_of_op(self, op: str, choice: OpConfig) -> float:
        """The loss that one op causes by itself."""
        if choice.precision is Precision.FP32:
            return 0.0
        if choice.precision is not Precision.INT8:
            return self.further[op][choice.precision][1]
        factor = {None: 1.0, MINMAX: 1.0, PERCENTILE: 0.8, KL: 0.9, MSE: 0.85}[choice.calibration]
        # Which algorithm suits differs from op to op, as it does in real models.
        factor *= 1 + 0.2 * (_hash(f"{op}{choice.calibration}") - 0.5)
        factor *= 3.0 if choice.weight == PER_TENSOR else 1.0
        return self.loss[op] * factor

    def true_loss(self, config: QuantizationConfig) -> float:
        """The loss without noise."""
        energy = self.energy(config)
        return energy if self.root is None else self.root * energy**0.5

    def energy(self, config: QuantizationConfig) -> float:
        """The quantity that adds up over ops."""
        each = [self.loss_of_op(op.name, config[op.name]) for op in self.space.ops]
        each = [value * (0.9 if config.recipe.reduce_range else 1.0) for value in each]
        total = sum(each) + self.interaction * sum(2 * min(a, b) for a, b in pairwise(each))
        return 0.0 if total < self.plateau else total

    def seconds_of(self, config: QuantizationConfig) -> float:
        """Time of one call."""
        total = sum(
            self._seconds_of_op(op.name, config[op.name].precision)
            * (1.3 if config[op.name].activation is not None and config[op.name].activation == S8 else 1.0)
            for op in self.space.ops
        )
        changes = [True, *(config[op.name].precision is not Precision.INT8 for op in self.space.ops), True]
        return 1e-4 + total + self.crossing_s * sum(a != b for a, b in pairwise(changes))

    def _seconds_of_op(self, op: str, precision: Precision) -> float:
        if precision in self.further.get(op, ()):
            return self.further[op][precision][0]
        return self.seconds[op][0 if precision is Precision.FP32 else 1]

    @cached_property
    def baseline_s(self) -> float:
        """Time of one fp32 call."""
        return self.seconds_of(QuantizationConfig())

    def __call__(self, config: QuantizationConfig) -> Measurement:
        """Measure a config; the noise depends on the config alone, as that of a fixed evaluation set does."""
        if self.failing(config):
            raise ApplyError("this config cannot be applied")
        loss = self.true_loss(config)
        if self.noise and not config.is_fp32:
            loss += self.noise * float(np.random.default_rng(int(config.fingerprint, 16)).standard_normal())
        fp32 = sum(config[op.name].precision is Precision.FP32 for op in self.space.ops)
        return Measurement(
            # Judged by labels, fp32 makes mistakes of its own.
            accuracy=(0.8 if self.root is None else 1.0) * (1 - loss),
            loss=loss,
            speedup=self.baseline_s / self.seconds_of(config),
            size_bytes=1000 * len(self.space.ops) + 3000 * fp32,
        )

    def sensitivity(self) -> Mapping[str, float]:
        """A noise-to-signal ratio that ranks the ops nearly, not quite, as their losses do."""
        return {
            op: self.error_scale * self.unseen.get(op, 1.0) * loss * (0.6 + 0.8 * _hash(op))
            for op, loss in self.loss.items()
        }

    def op_latency(self) -> Mapping[str, Mapping[Precision, float]]:
        """Seconds of each op by precision as a profile gives them, off by up to 10 %."""
        found = {}
        for op, (fp32, int8) in self.seconds.items():
            further = {precision: seconds for precision, (seconds, _) in self.further.get(op, {}).items()}
            by = {Precision.FP32: fp32, Precision.INT8: int8, **further}
            found[op] = {precision: value * (0.9 + 0.2 * _hash(op + precision)) for precision, value in by.items()}
        return found

    def output_error(self, config: QuantizationConfig) -> float:
        """Follows the loss without its noise, up to 20 % off."""
        hidden = sum(
            (1 - share) * self.loss_of_op(op, config[op]) * (0.9 if config.recipe.reduce_range else 1.0)
            for op, share in self.unseen.items()
        )
        seen = max(self.energy(config) - hidden, 0.0)
        return self.error_scale * seen * (0.9 + 0.2 * _hash(config.fingerprint))

    def neighbours(self) -> Mapping[str, tuple[str, ...]]:
        """Each op's reader in the chain."""
        names = [op.name for op in self.space.ops]
        return {name: tuple(names[i + 1 : i + 2]) for i, name in enumerate(names)}

    def op_latency_noise(self) -> Mapping[str, Mapping[Precision, float]]:
        """No noise is known."""
        return {}

    def crossing_latency(self) -> Mapping[str, float]:
        """The same seconds for every conversion."""
        return dict.fromkeys(self.seconds, self.crossing_s)

    def relative_speed(self, config: QuantizationConfig, other: QuantizationConfig) -> tuple[float, float]:
        """The exact speedup, twice."""
        speed = self.seconds_of(config) / self.seconds_of(other)
        return speed, speed

    def hessian_sensitivity(self, *, labelled: bool = False) -> Mapping[str, float] | None:  # noqa: ARG002
        """Sensitivities as if there were gradients."""
        return {op: 3 * loss * (0.6 + 0.8 * _hash(op + "hessian")) for op, loss in self.loss.items()}

    def problem(self, seed: int = 0, objective: Objective = Objective.LATENCY, target: float = 0.01) -> Problem:
        """The problem whose insights are these."""
        return Problem(
            space=self.space, criterion=Criterion(relative=target), objective=objective, seed=seed, insights=self
        )


def _hash(text: str) -> float:
    """A number in [0, 1) that depends on nothing but the text."""
    return zlib.crc32(text.encode()) / 2**32


def make_model(
    ops: int = 12, *, seed: int = 0, total_loss: float = 0.03, rich: bool = True, harmful: int = 3
) -> Synthetic:
    """A chain whose full int8 form loses ``total_loss``, most of it in a few ops, and runs at about twice the speed."""
    rng = np.random.default_rng(seed)
    space = make_space(ops, rich=rich)
    shares = rng.exponential(0.1, ops)
    shares[rng.choice(ops, size=min(harmful, ops), replace=False)] += 3.0
    seconds = rng.uniform(0.5e-3, 2e-3, ops)
    gain = rng.uniform(0.3, 0.7, ops)
    names = [op.name for op in space.ops]
    return Synthetic(
        space=space,
        # On real models 1.2 to 1.6, and more where the classes lie far apart.
        error_scale=float(np.exp(rng.uniform(np.log(0.5), np.log(4.0)))),
        seconds={name: (float(s), float(s * g)) for name, s, g in zip(names, seconds, gain, strict=True)},
        loss={name: float(total_loss * share / shares.sum()) for name, share in zip(names, shares, strict=True)},
    )


def with_precisions(model: Synthetic, further: Mapping[Precision, tuple[float, float]]) -> Synthetic:
    """The same model, every op of which offers further precisions.

    Args:
        model: A chain.
        further: By precision, its time over int8's, and what it loses over what int8 loses.
    """
    ops = tuple(
        replace(op, precisions=(*op.precisions, *(PrecisionSpace(precision=precision) for precision in further)))
        for op in model.space.ops
    )
    return replace(
        model,
        space=replace(model.space, ops=ops),
        further={
            op: {p: (seconds * int8, losses * model.loss[op]) for p, (seconds, losses) in further.items()}
            for op, (_, int8) in model.seconds.items()
        },
    )
