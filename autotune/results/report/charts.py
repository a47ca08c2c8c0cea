"""The drawings of a report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.criterion import Verdict
from autotune.results.outcome import amount_text
from autotune.results.report.labels import Labels
from autotune.results.report.svg import Drawing, Size
from autotune.results.report.words import format_loss, format_speedup, milliseconds, undecided
from autotune.results.summary import TuningSummary
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.evidence import TensorEvidence
from autotune.tuning.race import Race

_FAR = 2.5
"""Gains beyond so many times their median lie on the edge: one outlier must not press all others together."""
_FAR_LOSS = 6.0
"""The same for losses, in targets."""
_LABELS = 8
_DODGED = 60
"""Points that names leave free at the most: among more of them no name would find a place."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A trial as the main drawing has it.

    Attributes:
        trial: The trial.
        gain: How many times as good as fp32 by the objective: faster, or smaller.
        loss: The loss; None for a trial whose accuracy was not measured.
        kind: Class of its mark: ``met``, ``missed``, ``other``.
        front: Whether no other trial beats it in both.
        best: Whether it is the answer.
    """

    trial: Trial
    gain: float
    loss: float | None
    kind: str
    front: bool
    best: bool


def gain_of(summary: TuningSummary, measured: Measurement | None) -> float | None:
    """How many times as good as fp32 a candidate is by the run's objective."""
    baseline = summary.baseline.measurement
    if measured is None or baseline is None:
        return None
    if summary.objective is Objective.THROUGHPUT:
        return measured.throughput_gain
    if summary.objective.is_about_speed:
        return measured.speedup
    name = "size_bytes" if summary.objective is Objective.SIZE else "peak_memory_bytes"
    before, after = getattr(baseline, name), getattr(measured, name)
    return before / after if before and after else None


def points(summary: TuningSummary) -> list[Point]:
    """Every trial with a gain, by number."""
    found = [(trial, gain_of(summary, trial.measurement)) for trial in summary.history]
    drawn = [(trial, gain) for trial, gain in found if gain is not None]
    whole = [(t.number, gain, t.loss) for t, gain in drawn if t.loss is not None and t.state is TrialState.COMPLETED]
    front = set()
    least = math.inf
    for number, _, loss in sorted(whole, key=lambda each: (-each[1], each[2])):
        if loss < least:
            front.add(number)
            least = loss
    return [
        Point(
            trial=trial,
            gain=gain,
            loss=trial.loss,
            kind=_kind(trial),
            front=trial.number in front,
            best=trial.number == summary.best.number,
        )
        for trial, gain in drawn
    ]


def scatter(summary: TuningSummary, size: Size) -> Drawing | None:
    """Loss against gain of every trial, with intervals, Pareto front and target; None for fewer than two trials."""
    drawn = points(summary)
    if len(drawn) < 2:
        return None
    criterion, losses = summary.criterion, [each.loss for each in drawn if each.loss is not None]
    ends = _ends_of_the_best(drawn, summary)
    top, bottom = loss_range([*losses, *ends[0]], criterion.target)
    right, left = gain_range([each.gain for each in drawn], ends[1])
    unmeasured = [each for each in drawn if each.loss is None]
    room = Size(**{**vars(size), "top": size.top + (26 if unmeasured else 4)})
    drawing = Drawing(size=room, title="Loss against gain of every trial")
    noun = "speed" if summary.objective.is_about_speed else "smallness"
    drawing.axes(
        (left, right), (bottom, top),
        x_label="times as fast as fp32" if noun == "speed" else "times as small as fp32",
        y_label=f"accuracy loss{' [%]' if criterion.relative is not None else ''}",
        x_text=lambda value: f"{value:.3g}x",
        y_text=lambda value: f"{value * 100:.3g}" if criterion.relative is not None else f"{value:.3g}",
    )  # fmt: skip
    labels = Labels(drawing)
    if summary.constraints is None:
        _target(labels, criterion.target, f"target: {amount_text(criterion)}")
    else:
        _limit(labels, summary.constraints.least_speedup(summary.baseline_latency_ms), (left, right))
    steps: list[tuple[float, float]] = []
    for each in sorted((p for p in drawn if p.front and p.loss is not None), key=lambda p: p.gain):
        if steps:
            steps.append((steps[-1][0], drawing.y(each.loss or 0.0)))
        steps.append((drawing.x(each.gain), drawing.y(each.loss or 0.0)))
    drawing.path(steps, "front")
    for each in sorted(drawn, key=lambda p: (p.best, p.front)):
        _mark(drawing, each, summary, (right, top))
    if unmeasured:
        labels.text(size.width - size.right, 14, "crosses: dropped, loss not measured", "label", anchor="end")
        for each in unmeasured:
            drawing.cross(drawing.x(each.gain), size.top + 8, "dropped", _label(each, summary))
    _names(labels, drawn, summary, (right, top))
    return drawing


def _ends_of_the_best(drawn: Sequence[Point], summary: TuningSummary) -> tuple[list[float], list[float]]:
    """Ends of the intervals of the loss and of the gain, of the answer and of the front: these are drawn whole."""
    measured = [each.trial.measurement for each in drawn if each.best or each.front]
    losses = [each.loss_interval for each in measured if each is not None and each.loss_interval is not None]
    gains = [each.speedup_interval for each in measured if each is not None and each.speedup_interval is not None]
    return (
        [end for interval in losses for end in (interval.low, interval.high)],
        [end for interval in gains for end in (interval.low, interval.high)]
        if summary.objective.is_about_speed
        else [],
    )


def loss_range(losses: Sequence[float], target: float) -> tuple[float, float]:
    """Top and bottom of the axis of losses: an outlier beyond several targets lies on the edge."""
    # Where the target is tiny, the least loss of all tells what is far.
    least = min((loss for loss in losses if loss > 0), default=0.0)
    far = max(_FAR_LOSS * max(target, 1e-9), _FAR_LOSS * least, -min(losses, default=0.0))
    near = [loss for loss in losses if loss <= far]
    top = max([*near, 1.5 * target]) if near else max(min(losses, default=far), far)
    bottom = min([0.0, *near])
    room = 0.08 * (top - bottom)
    return top + room, bottom - (room if bottom < 0 else 0.05 * (top - bottom))


def gain_range(gains: Sequence[float], further: Sequence[float] = ()) -> tuple[float, float]:
    """Right and left end of the axis of gains; ``further`` values are on it where they are not far off."""
    far = _FAR * max(1.0, statistics.median(gains))
    near = [gain for gain in [*gains, *further] if gain <= far] or [min(gains)]
    low, high = min([1.0, *near]), max([1.0, *near])
    room = 0.06 * (high - low) or 0.1
    return high + room, max(0.0, low - room)


def _target(labels: Labels, target: float, text: str) -> None:
    drawing, size = labels.drawing, labels.drawing.size
    at = drawing.y(target)
    drawing.line(size.left, at, size.width - size.right, at, "target")
    labels.text(size.left + 6, at - 5, text, "target-text")


def _limit(labels: Labels, least: float | None, ends: tuple[float, float]) -> None:
    """The least speed that is asked for, where the axis holds it."""
    drawing, size = labels.drawing, labels.drawing.size
    if least is None or not ends[0] < least < ends[1]:
        return
    at = drawing.x(least)
    drawing.line(at, size.top, at, size.height - size.bottom, "target")
    right = at > (size.left + size.width) / 2
    text = f"limit: {least:.3g}x"
    labels.text(at + (-6 if right else 6), size.top + 14, text, "target-text", anchor="end" if right else "start")


def _mark(drawing: Drawing, each: Point, summary: TuningSummary, ends: tuple[float, float]) -> None:
    if each.loss is None:
        return
    x, y = drawing.x(each.gain), drawing.y(each.loss)
    measured = each.trial.measurement or Measurement()
    kind = f"mark {each.kind}" + ("" if each.trial.state is TrialState.COMPLETED else " part")
    if (interval := measured.loss_interval) is not None:
        drawing.line(x, drawing.y(interval.low), x, drawing.y(interval.high), f"bar {each.kind}")
    if (interval := measured.speedup_interval) is not None and summary.objective.is_about_speed:
        drawing.line(drawing.x(interval.low), y, drawing.x(interval.high), y, f"bar {each.kind}")
    label = _label(each, summary)
    if each.loss > ends[1]:
        drawing.triangle(x, y, kind, label)
    elif each.gain > ends[0]:
        drawing.triangle(x, y, kind, label, rightwards=True)
    elif each.trial.state is TrialState.PRUNED:
        drawing.cross(x, y, f"dropped {each.kind}", label)
    else:
        drawing.dot(x, y, kind + (" best" if each.best else ""), 7 if each.best else 4, label)


def _label(each: Point, summary: TuningSummary) -> str:
    trial = each.trial
    gain = f"{each.gain:.2f}x as small"
    if summary.objective.is_about_speed:
        gain = format_speedup(trial.speedup) + undecided(trial.measurement)
    end = f" ({trial.state}: {trial.reason})" if trial.reason else ""
    return f"trial {trial.number}: {gain}, loss {format_loss(trial.loss, summary.criterion)}{end}"


def _names(labels: Labels, drawn: Sequence[Point], summary: TuningSummary, ends: tuple[float, float]) -> None:
    """Names of the answer, of fp32 and of the front, and figures of what lies beyond the frame, where there is room."""
    drawing = labels.drawing
    measured = [each for each in drawn if each.loss is not None]
    for each in measured if len(measured) <= _DODGED else ():
        labels.point(drawing.x(each.gain), drawing.y(each.loss or 0.0))
    named = [each for each in measured if each.best or each.trial.config.is_fp32 or each.front]
    ordered = sorted(named, key=lambda p: (not p.best, not p.trial.config.is_fp32))
    for each in ordered[:_LABELS]:
        name = "fp32" if each.trial.config.is_fp32 else f"trial {each.trial.number}"
        name += ", the answer" if each.best else ""
        labels.name(drawing.x(each.gain), drawing.y(each.loss or 0.0), name)
    for each in measured:
        x, y = drawing.x(each.gain), drawing.y(each.loss or 0.0)
        if (each.loss or 0.0) > ends[1]:
            labels.name(x, y, format_loss(each.loss, summary.criterion), "tick")
        elif each.gain > ends[0]:
            labels.name(x, y, f"{each.gain:.3g}x", "tick")


def _kind(trial: Trial) -> str:
    verdict = trial.measurement.verdict if trial.measurement else None
    return "other" if verdict is None or verdict is Verdict.UNDECIDED else str(verdict)


def progress(summary: TuningSummary, size: Size) -> Drawing | None:
    """The best gain that keeps the target so far, against the time that trials took; None for fewer than two."""
    seconds, best, line = 0.0, 1.0, [(0.0, 1.0)]
    drawn = {each.trial.number: each for each in points(summary)}
    marks: list[tuple[float, Point]] = []
    for trial in summary.history:
        seconds += trial.duration_s or 0.0
        each = drawn.get(trial.number)
        if each is None:
            continue
        marks.append((seconds, each))
        if trial.met and each.gain > best:
            line.append((seconds, best))
            best = each.gain
            line.append((seconds, best))
    if len(marks) < 2 or seconds <= 0:
        return None
    line.append((seconds, best))
    right, left = gain_range([each.gain for _, each in marks])
    drawing = Drawing(size=size, title="Best candidate so far, against time")
    drawing.axes(
        (0.0, seconds), (left, right), x_label="seconds spent in trials",
        y_label="times as fast as fp32" if summary.objective.is_about_speed else "times as small as fp32",
        x_text=lambda value: f"{value:g}", y_text=lambda value: f"{value:.3g}x",
    )  # fmt: skip
    drawing.path([(drawing.x(x), drawing.y(y)) for x, y in line], "best-so-far")
    for at, each in marks:
        label = _label(each, summary)
        if each.loss is None or each.trial.state is TrialState.PRUNED:
            drawing.cross(drawing.x(at), drawing.y(each.gain), f"dropped {each.kind}", label)
        else:
            drawing.dot(drawing.x(at), drawing.y(each.gain), f"mark {each.kind}", 5 if each.best else 4, label)
    return drawing


def latencies(rows: Sequence[tuple[str, Measurement]], size: Size) -> Drawing | None:
    """For each model the median, p90 and p99 of one call; None where no model has them."""
    known = [(name, m) for name, m in rows if m.latency_ms is not None]
    if not known or all(m.latency_p99_ms is None for _, m in known):
        return None
    left = min(170, size.width // 3)
    room = Size(width=size.width, height=62 + 34 * len(known), left=left, right=size.right, top=16, bottom=40)
    drawing = Drawing(size=room, title="Latency of one call: median, p90 and p99")
    most = max(m.latency_p99_ms or m.latency_ms or 0.0 for _, m in known) * 1.08
    drawing.axes(
        (0.0, most), (0.0, 1.0), x_label="ms of one call: median, p90, p99", y_label="",
        x_text=lambda value: f"{value:.3g}", y_text=lambda _: "",
    )  # fmt: skip
    for index, (name, measured) in enumerate(known):
        y = 32 + 34 * index
        times = [t for t in (measured.latency_ms, measured.latency_p90_ms, measured.latency_p99_ms) if t is not None]
        drawing.text(room.left - 8, y + 4, _short(name, room.left // 7), "name", anchor="end")
        drawing.box(
            drawing.x(0.0), y - 7, drawing.x(times[0]) - drawing.x(0.0), 14, "fill",
            f"{name}: " + ", ".join(milliseconds(time) for time in times),
        )  # fmt: skip
        drawing.line(drawing.x(times[0]), y, drawing.x(times[-1]), y, "whisker")
        for time in times:
            drawing.line(drawing.x(time), y - 7, drawing.x(time), y + 7, "whisker")
    return drawing


def race_chart(race: Race, size: Size) -> Drawing:
    """The interval of each finalist's speedup."""
    ends = [each.interval for each in race.finalists]
    low, high = min([1.0, *(each.low for each in ends)]), max([1.0, *(each.high for each in ends)])
    high = min(high, _FAR * max(1.0, statistics.median(each.speedup for each in race.finalists)))
    left = 90
    room = Size(width=size.width, height=62 + 26 * len(ends), left=left, right=size.right, top=16, bottom=40)
    drawing = Drawing(size=room, title="Speedups of the finalists with their intervals")
    margin = 0.06 * (high - low) or 0.1
    drawing.axes(
        (low - margin, high + margin), (0.0, 1.0), x_label="times as fast as fp32", y_label="",
        x_text=lambda value: f"{value:.3g}x", y_text=lambda _: "",
    )  # fmt: skip
    drawing.line(drawing.x(1.0), room.top, drawing.x(1.0), room.height - room.bottom, "target")
    for index, each in enumerate(race.finalists):
        y = 30 + 26 * index
        drawing.text(left - 8, y + 4, f"trial {each.number}", "name", anchor="end")
        kind = "met" if each.survived and each.faster else "other"
        drawing.line(drawing.x(each.interval.low), y, drawing.x(each.interval.high), y, f"bar {kind}")
        drawing.dot(drawing.x(each.speedup), y, f"mark {kind}", 5, f"trial {each.number}")
    return drawing


def histogram(tensor: TensorEvidence, size: Size) -> Drawing:
    """A tensor's values on a logarithmic scale, and the range that was chosen for them."""
    room = Size(width=size.width, height=size.height, left=8, right=8, top=10, bottom=24)
    drawing = Drawing(size=room, title=f"Values of {tensor.name} and the chosen range")
    low, high = min(tensor.start, tensor.low), max(tensor.stop, tensor.high)
    most = math.log1p(max(tensor.counts, default=1)) or 1.0
    scale = (room.width - room.left - room.right) / ((high - low) or 1.0)
    bottom = room.height - room.bottom

    def at(value: float) -> float:
        return room.left + (value - low) * scale

    drawing.box(at(tensor.low), room.top, (tensor.high - tensor.low) * scale, bottom - room.top, "range")
    width = (tensor.stop - tensor.start) / len(tensor.counts)
    outline: list[tuple[float, float]] = [(at(tensor.start), bottom)]
    for index, count in enumerate(tensor.counts):
        height = bottom - math.log1p(count) / most * (bottom - room.top)
        edge = tensor.start + index * width
        outline += [(at(edge), height), (at(edge + width), height)]
    outline.append((at(tensor.stop), bottom))
    drawing.path(outline, "bars")
    for value in (tensor.low, tensor.high):
        drawing.line(at(value), room.top, at(value), bottom, "range-end")
    drawing.text(room.left, room.height - 8, f"{low:.3g}", "tick")
    drawing.text(room.width - room.right, room.height - 8, f"{high:.3g}", "tick", anchor="end")
    return drawing


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
