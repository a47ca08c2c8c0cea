"""The ops of a model as the report explains them: what each costs, in accuracy and in time, and why it is as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotune.config import FP32, OpConfig, Precision, QuantizationConfig
from autotune.notes import counted
from autotune.results.report.choices import choice_numbers
from autotune.results.report.words import format_loss, format_speedup, milliseconds, percent
from autotune.results.summary import TuningSummary
from autotune.trial import Measurement, Trial
from autotune.tuning.evidence import Evidence

_FEW_OPS = 4
"""Two trials say something about an op where they differ in no more ops than this."""
_MUCH_NOISE = 0.1
"""Share of the noise of all ops from which an op's own is named as a reason."""


@dataclass(frozen=True, kw_only=True)
class OpRow:
    """One op.

    Attributes:
        name: Name of the op.
        op_type: Its type.
        choice: Its precision and scheme in the config that is shown.
        quantized: Whether it is quantized there.
        sensitivity: Noise-to-signal ratio at the outputs where this op alone is quantized; None where nobody knows.
        guessed: Whether that is a share of a group's ratio and no figure of its own.
        share: Its share of the noise of all ops.
        fp32_ms: Milliseconds of its kernels in fp32.
        int8_ms: The same in the precision that it has, or would have where it is fp32.
        conversion_ms: Milliseconds of converting its output between fp32 and int8 once.
        price_ms: Milliseconds that one call takes longer with this op in fp32 than quantized, all other ops as they
            are shown, the conversions at its borders included. The profile tells it, or a comparison of two models.
        price_ends_ms: Interval of the price, where two models were compared.
        trials: Evidence of the trials, in words.
        why: Why it is as it is.
    """

    name: str
    op_type: str
    choice: OpConfig
    quantized: bool
    sensitivity: float | None
    guessed: bool
    share: float | None
    fp32_ms: float | None
    int8_ms: float | None
    conversion_ms: float | None
    price_ms: float | None
    price_ends_ms: tuple[float, float] | None
    trials: str
    why: str


def op_rows(summary: TuningSummary) -> list[OpRow]:
    """All ops in graph order."""
    evidence, config = summary.evidence, summary.shown.config
    call_ms = (summary.shown.measurement or Measurement()).latency_ms
    timed = evidence.returned if call_ms and evidence.returned_in == config.fingerprint else {}
    noise = {op: evidence.sensitivity[op] for op in summary.op_types if op in evidence.sensitivity}
    total = sum(value for value in noise.values() if math.isfinite(value))
    prices = Prices(evidence, around(summary))
    said = trials_of_ops(summary)
    rows = []
    for name, op_type in summary.op_types.items():
        sensitivity = noise.get(name)
        share = None if sensitivity is None or not total else min(1.0, sensitivity / total)
        fp32_ms, int8_ms, price = prices.fp32_ms(name), prices.other_ms(name), prices.price_ms(name)
        ends = None
        if price is None and name in timed and call_ms is not None:
            ends = (timed[name][0] * call_ms, timed[name][1] * call_ms)
            price = sum(ends) / 2
        crossing = evidence.crossing.get(name)
        rows.append(
            OpRow(
                name=name,
                op_type=op_type,
                choice=config[name],
                quantized=config[name] != FP32,
                sensitivity=sensitivity,
                guessed=evidence.alone is not None and name not in evidence.alone and bool(sensitivity),
                share=share,
                fp32_ms=fp32_ms,
                int8_ms=int8_ms,
                conversion_ms=None if crossing is None else crossing * 1e3,
                price_ms=price,
                price_ends_ms=ends,
                trials=said.get(name, ""),
                why=_why(config[name], sensitivity, share, price),
            )
        )
    return rows


def around(summary: TuningSummary) -> QuantizationConfig:
    """The config around each op of which prices are told: the one that is shown, or all in int8 where that is fp32."""
    config = summary.shown.config
    if not config.is_fp32:
        return config
    int8 = OpConfig(precision=Precision.INT8)
    return QuantizationConfig(ops={op: int8 for op, by in summary.evidence.seconds.items() if Precision.INT8 in by})


def costliest(rows: Sequence[OpRow], count: int = 3) -> list[OpRow]:
    """The ops whose quantization costs most accuracy, worst first; those without a figure are not among them."""
    known = [row for row in rows if row.sensitivity]
    return sorted(known, key=lambda row: -(row.sensitivity or 0.0))[:count]


class Prices:
    """Prices of single ops in time, from the profile that a run kept.

    Args:
        evidence: The figures of the run.
        config: The config around each op.
    """

    def __init__(self, evidence: Evidence, config: QuantizationConfig) -> None:
        self._evidence = evidence
        self._config = config
        self._writers: dict[str, list[str]] = {}
        for writer, readers in (evidence.readers or {}).items():
            for reader in readers:
                self._writers.setdefault(reader, []).append(writer)

    def fp32_ms(self, op: str) -> float | None:
        """Milliseconds of the op's kernels in fp32; None where it was fused into another op."""
        return self._ms(op, Precision.FP32)

    def other_ms(self, op: str) -> float | None:
        """The same in the precision that the config has, or that of int8 where it has fp32."""
        return self._ms(op, self._quantized_precision(op))

    def price_ms(self, op: str) -> float | None:
        """Milliseconds that a call takes longer with the op in fp32, conversions at its borders included."""
        fp32, other = self.fp32_ms(op), self.other_ms(op)
        if fp32 is None or other is None:
            return None
        as_int8 = self._quantized_precision(op) is Precision.INT8
        return fp32 - other + self._conversions_ms(op, integer=False) - self._conversions_ms(op, integer=as_int8)

    def _quantized_precision(self, op: str) -> Precision | None:
        chosen = self._config[op].precision
        if chosen is not Precision.FP32:
            return chosen
        measured = [Precision(name) for name in self._evidence.seconds.get(op, {}) if name != Precision.FP32]
        return Precision.INT8 if Precision.INT8 in measured else next(iter(measured), None)

    def _ms(self, op: str, precision: Precision | None) -> float | None:
        seconds = self._evidence.seconds.get(op, {}).get(str(precision))
        return None if seconds is None else seconds * 1e3

    def _conversions_ms(self, op: str, *, integer: bool) -> float:
        """Conversions of what the op reads and writes; an output is converted once, however many read it."""
        readers = self._evidence.readers or {}

        def is_integer(name: str) -> bool:
            return integer if name == op else self._config[name].precision is Precision.INT8

        spent = 0.0
        for writer in (op, *self._writers.get(op, ())):
            if any(is_integer(reader) != is_integer(writer) for reader in readers.get(writer, ())):
                spent += self._evidence.crossing.get(writer, 0.0) * 1e3
        return spent


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two trials that differ in an op and in few others.

    Attributes:
        before: The one that has the op quantized.
        after: The one that has it in fp32.
        others: The other ops in which they differ.
    """

    before: Trial
    after: Trial
    others: Sequence[str]

    @property
    def price_ms(self) -> float | None:
        """Milliseconds that a call of ``after`` takes longer, by its own calls and those of fp32 in turn with them."""
        fp32_ms = (self.before.measurement or Measurement()).fp32_latency_ms
        if fp32_ms is None or not self.before.speedup or not self.after.speedup:
            return None
        return fp32_ms / self.after.speedup - fp32_ms / self.before.speedup


def trials_of_ops(summary: TuningSummary) -> dict[str, str]:
    """By op: the two trials that differ least beside it, or how often it was quantized."""
    pairs = pairs_of_ops(summary)
    trials = _compared_trials(summary)
    if not trials:
        return {}
    return {
        name: _compared(pairs[name], summary)
        if name in pairs
        else f"quantized in {sum(trial.config[name] != FP32 for trial in trials)} of {counted(len(trials), 'trial')}"
        for name in summary.op_types
    }


def pairs_of_ops(summary: TuningSummary) -> dict[str, Pair]:
    """By op: the two trials that differ least beside it; no entry where they differ in many others."""
    names, trials = list(summary.op_types), _compared_trials(summary)
    if not trials or not names:
        return {}
    choices = choice_numbers(trials, names)
    found: dict[int, tuple[int, int, int]] = {}
    for first in range(len(trials)):
        differing = choices[first + 1 :] != choices[first]
        counts = differing.sum(1)
        for offset in np.flatnonzero((counts > 0) & (counts <= _FEW_OPS)).tolist():
            second = first + 1 + offset
            if trials[first].config.recipe != trials[second].config.recipe:
                continue
            for op in np.flatnonzero(differing[offset]).tolist():
                if (choices[first, op] == 0) != (choices[second, op] == 0):
                    best = found.get(op)
                    if best is None or counts[offset] < best[0]:
                        found[op] = int(counts[offset]), first, second
    pairs = {}
    for op, (_, first, second) in found.items():
        before, after = (second, first) if choices[first, op] == 0 else (first, second)
        others = [names[index] for index in np.flatnonzero(choices[first] != choices[second]).tolist() if index != op]
        pairs[names[op]] = Pair(before=trials[before], after=trials[after], others=others)
    return pairs


def _compared_trials(summary: TuningSummary) -> list[Trial]:
    """The trials on the runtime of the one that is shown whose accuracy was measured."""
    runtime = summary.shown_runtime or summary.baseline_runtime
    return [
        trial
        for trial in summary.history[1:]
        if trial.loss is not None and (trial.config.runtime or summary.baseline_runtime) == runtime
    ]


def _compared(pair: Pair, summary: TuningSummary) -> str:
    before, after = pair.before, pair.after
    text = (
        f"fp32 in trial {after.number}, quantized in {before.number}: "
        f"loss {format_loss(before.loss, summary.criterion)} → {format_loss(after.loss, summary.criterion)}"
    )
    if before.speedup is not None and after.speedup is not None:
        text += f", {format_speedup(before.speedup)} → {format_speedup(after.speedup)}"
    return f"{text}; together with {', '.join(pair.others)}" if pair.others else text


def _share(share: float) -> str:
    return "under 1 %" if share < 0.01 else percent(share)


def _why(choice: OpConfig, sensitivity: float | None, share: float | None, price: float | None) -> str:
    """The figures that speak for the choice, or that none do."""
    noise = "" if share is None else f"{_share(share)} of the noise"
    if choice == FP32:
        if sensitivity is not None and math.isinf(sensitivity):
            return "no candidate could be made with it"
        parts = []
        if noise and share is not None and share >= _MUCH_NOISE:
            parts.append(f"keeps {noise} out")
        if price is not None:
            parts.append(f"int8 would save {milliseconds(price)}" if price > 0 else "int8 would save no time")
        if not parts and noise:
            parts.append(f"keeps {noise} out")
        return ", ".join(parts) or "nothing was measured of it"
    parts = [f"saves {milliseconds(price)}"] if price is not None and price > 0 else []
    if price is not None and price <= 0:
        parts.append("saves no time by itself")
    if noise:
        parts.append(f"adds {noise}")
    return ", ".join(parts) or "nothing was measured of it by itself"
