"""How the report writes figures."""

from __future__ import annotations

from autotune.criterion import Criterion, Interval
from autotune.results.outcome import precision_remark
from autotune.trial import Measurement


def format_loss(value: float | None, criterion: Criterion, interval: Interval | None = None) -> str:
    """A loss as people read it: in percent for a relative criterion, else in the metric's unit."""
    if value is None:
        return "-"
    unit, factor, digits = ("%", 100.0, 2) if criterion.relative is not None else ("", 1.0, 4)
    text = f"{value * factor:.{digits}f}"
    if interval is not None:
        text += f" [{interval.low * factor:.{digits}f}, {interval.high * factor:.{digits}f}]"
    return f"{text} {unit}".rstrip()


def format_speedup(value: float | None, interval: Interval | None = None) -> str:
    """A speedup as people read it."""
    if value is None:
        return "-"
    return f"{value:.2f}x" + (f" [{interval.low:.2f}, {interval.high:.2f}]" if interval is not None else "")


def undecided(measured: Measurement | None) -> str:
    """Remark for a machine that was too busy for the interval that was asked for."""
    remark = precision_remark(measured)
    return f" ({remark})" if remark else ""


def figure(value: float | None, form: str) -> str:
    """A figure by a format string; a dash where there is none."""
    return "-" if value is None else form.format(value)


def milliseconds(value: float | None) -> str:
    """Milliseconds with three significant digits where they are few."""
    if value is None:
        return "-"
    return f"{value:.3f} ms" if abs(value) < 10 else f"{value:.1f} ms"


def megabytes(value: int | None) -> str:
    """Bytes as millions."""
    return "-" if value is None else f"{value / 1e6:.2f} MB"


def signed_ms(value: float | None) -> str:
    """A difference in milliseconds with its sign."""
    return "-" if value is None else f"{value:+.3f} ms"


def percent(share: float) -> str:
    """A share in percent: two significant digits below 1 %, and no zero for what is not one."""
    amount = share * 100
    return f"{amount:.0f} %" if abs(amount) >= 1 or not amount else f"{amount:.2g} %"


def scientific(value: float) -> str:
    """A number of any magnitude with two significant digits."""
    return f"{value:.2g}"
