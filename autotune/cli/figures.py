"""How figures are written for people."""

from __future__ import annotations

import math

from autotune.criterion import Criterion, Interval
from autotune.trial import Measurement, Trial


def loss_text(loss: float | None, criterion: Criterion, interval: Interval | None = None) -> str:
    """A loss with its sign: in percent where it is a share of the baseline, else in the metric's unit."""
    if loss is None:
        return "-"

    def one(value: float) -> str:
        return f"{value * 100:+.2f} %" if criterion.relative is not None else f"{value:+.4g}"

    return one(loss) + (f" ({one(interval.low)} to {one(interval.high)})" if interval is not None else "")


def number_text(value: float | None, digits: int = 4) -> str:
    """A number with so many digits after the point."""
    return "-" if value is None else f"{value:.{digits}f}"


def latency_text(latency_ms: float | None) -> str:
    """A latency in milliseconds with three significant digits or more."""
    return "-" if latency_ms is None else f"{latency_ms:.3f} ms" if latency_ms < 10 else f"{latency_ms:.1f} ms"


def speedup_text(speedup: float | None, interval: Interval | None = None) -> str:
    """A speedup over fp32."""
    if speedup is None:
        return "-"
    return f"{speedup:.2f}x" + (f" ({interval.low:.2f} to {interval.high:.2f})" if interval is not None else "")


def measured_speedup(measured: Measurement | None) -> str:
    """A measured speedup in few characters, with a question mark where the machine was too busy for its precision."""
    if measured is None or measured.speedup is None:
        return "-"
    return speedup_text(measured.speedup) + ("?" if measured.latency_decided is False else "")


def bytes_text(size: int | None) -> str:
    """A size in bytes, in the unit that suits it."""
    if size is None:
        return "-"
    amount = float(size)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.2f} GiB"


def seconds_text(seconds: float) -> str:
    """A duration."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def decibels_text(value: float) -> str:
    """A ratio of signal to noise; a dash where there is none."""
    return "-" if math.isnan(value) else "equal" if value == math.inf else f"{value:.1f} dB"


def brief(trial: Trial, criterion: Criterion) -> str:
    """A trial in a few words."""
    if trial.config.is_fp32:
        return "fp32"
    return f"trial {trial.number}: {measured_speedup(trial.measurement)}, loss {loss_text(trial.loss, criterion)}"
