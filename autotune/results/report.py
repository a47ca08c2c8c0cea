"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from autotune.atomic import replacing
from autotune.criterion import Criterion, Interval, Verdict
from autotune.errors import WorkspaceError
from autotune.results.outcome import (
    answer_text,
    holdout_text,
    leaving_text,
    nearest_text,
    proof_text,
    trial_name,
    verdict_text,
)
from autotune.trial import Measurement, Trial, TrialState

if TYPE_CHECKING:
    from autotune.results.result import TuningSummary

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --met: #18864b; --missed: #c0392b; --other: #888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
.scroll { overflow-x: auto; }
.met { color: var(--met); } .missed { color: var(--missed); } .muted { color: var(--other); }
svg text { fill: currentColor; font-size: 12px; } tr.best { font-weight: 600; }
"""


def write_report(result: TuningSummary, path: Path) -> Path:
    """Write the report of a result.

    Raises:
        WorkspaceError: The file cannot be written.
    """
    text = render(result)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WorkspaceError(f"The report {path} cannot be written: {error.strerror or error}") from error
    return path


def render(result: TuningSummary) -> str:
    """The report as HTML."""
    sections = [
        f"<h1>{_headline(result)}</h1><p>Why this one: {_text(result.reason)}. "
        f"The search ended: {_text(result.end_reason)}.</p>{_remarks(result)}",
        _section("Result", _comparison(result)),
        _section("Race of the finalists", _races(result)) if result.races else "",
        _section("Loss and speedup of every trial", _scatter(result)),
        _section("Ops that cost most", _costly(result)) if result.costly_ops else "",
        _section("Ops that can saturate without VNNI", _saturation(result)) if result.saturation_risk else "",
        _section("Precision by op type", _table(result.precision_table().reset_index())),
        _section("What each op does", _choices(result)),
        _section("Trials", _trials(result)),
        _section("Time", _seconds(result)),
        _section("Measured on", f"<p>{_text(result.host)}</p>") if result.host else "",
        _section("Notes", "".join(f"<p>{_text(note)}</p>" for note in result.notes)) if result.notes else "",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tuning report</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(sections)}</body></html>"
    )


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


def _headline(result: TuningSummary) -> str:
    kind = result.verdict if result.success or result.verdict is not Verdict.MET else Verdict.UNDECIDED
    text = f'<span class="{kind}">{verdict_text(result)}</span>: {answer_text(result)}'
    if result.best.config.is_fp32:
        return text
    return f"{text}, at a loss of {format_loss(result.best.loss, result.criterion)}"


def _remarks(result: TuningSummary) -> str:
    """Remarks: other runtimes, a way to prove the verdict, offers beside the answer, and uses of the held-out data."""
    texts = (leaving_text(result), proof_text(result), nearest_text(result), holdout_text(result))
    return "".join(f"<p>{_text(text)}.</p>" for text in texts if text is not None)


def _comparison(result: TuningSummary) -> str:
    # Latency and speedup of one table come from the same calls.
    fp32_ms = result.baseline_latency_ms
    own = result.baseline.measurement or Measurement()
    columns = {result.fp32_name: own if own.latency_ms == fp32_ms else _at(own, fp32_ms)}
    if not result.best.config.is_fp32:
        columns["tuned" if result.runtime is None else f"tuned, on {result.runtime}"] = (
            result.best.measurement or Measurement()
        )
    if result.nearest is not None:
        columns[f"nearest: {trial_name(result.nearest)}"] = result.nearest.measurement or Measurement()
    if result.final is not None:
        columns["tuned, on data held out"] = result.final
    loss = f"loss (target: {result.criterion})"
    rows = {
        name: {
            "accuracy": _figure(m.accuracy, "{:.4f}"),
            loss: format_loss(m.loss, result.criterion, m.loss_interval),
            "latency: median, p90, p99": _latency(m),
            "speedup": format_speedup(m.speedup, m.speedup_interval) + _undecided(m),
            "size": "-" if m.size_bytes is None else f"{m.size_bytes / 1e6:.2f} MB",
            "peak memory": "-" if m.peak_memory_bytes is None else f"{m.peak_memory_bytes / 1e6:.1f} MB",
            **{name: _figure(m.metrics.get(name), "{:.4f}") for name in _further_metrics(result)},
            "samples": _figure(m.samples, "{:d}"),
        }
        for name, m in columns.items()
    }
    return _table(pd.DataFrame(rows).reset_index(names=""))


def _at(measured: Measurement, latency_ms: float | None) -> Measurement:
    """The measurement with another session's latency, of which only the median is known."""
    return dataclasses.replace(measured, latency_ms=latency_ms, latency_p90_ms=None, latency_p99_ms=None)


def _races(result: TuningSummary) -> str:
    """Every race: its finalists, their figures there and in the search, and what it proved."""
    words = {True: "faster", False: "not faster", None: "undecided"}
    parts = []
    for race in result.races:
        rows = [
            {
                "trial": each.number,
                "latency": f"{each.latency_ms:.3f} ms",
                "speedup": format_speedup(each.speedup, each.interval),
                "in the search": format_speedup(each.searched),
                "than fp32": words[each.faster],
                "among the finalists": "not beaten" if each.survived else "proven slower than another",
                "rounds": each.rounds,
            }
            for each in race.finalists
        ]
        end = "decided" if race.decided else "not decided within its time"
        line = (
            f"{result.fp32_name} took {race.baseline_ms:.3f} ms; sessions of each: {race.sessions}; "
            f"caches {race.cache}; {end}."
        )
        parts.append(f"<p>{_text(line)}</p>{_table(pd.DataFrame(rows))}")
    return "".join(parts)


def _trials(result: TuningSummary) -> str:
    head = "".join(
        f"<th{_class(name)}>{name}</th>"
        for name in ("trial", "what", "state", "accuracy", "loss", "speedup", "int8 ops", "seconds", "reason")
    )
    rows = []
    for trial in result.history:
        measured = trial.measurement or Measurement()
        cells = [
            str(trial.number),
            _text(trial.note if result.baseline_runtime is None else f"{_runtime(result, trial)}: {trial.note}"),
            str(measured.verdict or trial.state),
            _figure(measured.accuracy, "{:.4f}"),
            format_loss(measured.loss, result.criterion, measured.loss_interval),
            format_speedup(measured.speedup, measured.speedup_interval) + _undecided(measured),
            str(sum(trial.config.precisions().values())),
            _figure(trial.duration_s, "{:.1f}"),
            _text(trial.reason or ""),
        ]
        kinds = ("", "text", "", "", "", "", "", "", "text")
        line = "".join(f'<td class="{kind}">{cell}</td>' for kind, cell in zip(kinds, cells, strict=True))
        best = ' class="best"' if trial.number == result.best.number else ""
        rows.append(f"<tr{best}>{line}</tr>")
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _runtime(result: TuningSummary, trial: Trial) -> str:
    return trial.config.runtime or str(result.baseline_runtime)


def _class(name: str) -> str:
    return ' class="text"' if name in ("what", "reason") else ""


def _scatter(result: TuningSummary) -> str:
    """Loss against speedup, with the target as a line; a trial without either is not drawn."""
    points = [t for t in result.history if t.loss is not None and t.speedup is not None]
    if len(points) < 2:
        return '<p class="muted">Too few trials were measured in full to draw.</p>'
    width, height, margin = 720, 320, 48
    # A loss far beyond the target says no more than that: the axis ends at eight targets so that the rest is readable.
    top = min(max(_loss(t) for t in points), 8 * max(result.criterion.target, 1e-9)) * 1.05 or 1.0
    top = max(top, result.criterion.target * 1.2)
    low = min(0.0, *(_loss(t) for t in points))
    fast = max(_speed(t) for t in points) * 1.05

    def at(trial: Trial) -> tuple[float, float]:
        x = margin + _speed(trial) / fast * (width - 2 * margin)
        return x, level(min(_loss(trial), top))

    def level(loss: float) -> float:
        return height - margin - (loss - low) / (top - low) * (height - 2 * margin)

    target = level(result.criterion.target)
    marks = "".join(_mark(trial, *at(trial), result) for trial in points)
    right, bottom = width - margin, height - margin
    axes = (
        f'<path d="M{margin} {margin}V{bottom}H{right}" fill="none" stroke="var(--line)"/>'
        f'<path d="M{margin} {target:.1f}H{right}" stroke="var(--missed)" stroke-dasharray="4"/>'
        f'<text x="{margin + 4}" y="{target - 4:.1f}">target</text>'
        f'<text x="{right}" y="{height - 12}" text-anchor="end">speedup, up to {fast:.2f}x</text>'
        f'<text x="8" y="{margin - 16}">loss, up to {format_loss(top, result.criterion)}</text>'
    )
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img">{axes}{marks}</svg>'


def _mark(trial: Trial, x: float, y: float, result: TuningSummary) -> str:
    verdict = trial.measurement.verdict if trial.measurement else None
    color = {Verdict.MET: "var(--met)", Verdict.MISSED: "var(--missed)"}.get(verdict, "var(--other)")  # type: ignore[arg-type]  # None has no color of its own
    radius = 7 if trial.number == result.best.number else 4
    opacity = 1.0 if trial.state is TrialState.COMPLETED else 0.4
    speed = format_speedup(trial.speedup) + (_undecided(trial.measurement) if trial.measurement else "")
    label = f"trial {trial.number}: {speed}, loss {format_loss(trial.loss, result.criterion)}"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{color}" opacity="{opacity}">'
        f"<title>{_text(label)}</title></circle>"
    )


def _choices(result: TuningSummary) -> str:
    """The answer's config: the ops by their choice, and the recipe."""
    config = result.best.config
    groups: dict[str, list[str]] = {}
    for op in result.op_types:
        groups.setdefault(str(config[op]), []).append(op)
    rows = "".join(
        f'<tr><td class="text">{_text(choice)}</td><td class="text">{_text(", ".join(ops))}</td></tr>'
        for choice, ops in sorted(groups.items(), key=lambda item: len(item[1]))
    )
    recipe = ", ".join(f"{name} {value}" for name, value in config.recipe.to_json().items())
    line = f"<p>Recipe: {_text(recipe)}.</p>" if recipe else ""
    return f'{line}<div class="scroll"><table>{rows}</table></div>'


def _costly(result: TuningSummary) -> str:
    rows = [{"op": name, "noise to signal at the outputs": f"{value:.3g}"} for name, value in result.costly_ops.items()]
    return _table(pd.DataFrame(rows))


def _latency(measured: Measurement) -> str:
    if measured.latency_ms is None:
        return "-"
    times = (measured.latency_ms, measured.latency_p90_ms, measured.latency_p99_ms)
    return ", ".join(_figure(time, "{:.3f}") for time in times) + " ms"


def _undecided(measured: Measurement) -> str:
    """Remark for a machine that was too busy for the interval that was asked for."""
    return " (undecided)" if measured.latency_decided is False else ""


def _further_metrics(result: TuningSummary) -> list[str]:
    """All metrics but the judged one, which is the accuracy."""
    return list((result.baseline.measurement or Measurement()).metrics)[1:]


def _saturation(result: TuningSummary) -> str:
    """On an x86 CPU without VNNI the accuracy above may not hold; a portable run admits no such op."""
    text = (
        "On x86 CPUs without VNNI two neighbouring 8-bit products are summed in 16 bits, and in these ops the sum can "
        "exceed them: the same file may lose accuracy there. A run with <code>portable: true</code> admits no such op."
    )
    kinds = [{"op": name, "type": result.op_types.get(name, "-")} for name in result.saturation_risk]
    return f"<p>{text}</p>{_table(pd.DataFrame(kinds))}"


def _seconds(result: TuningSummary) -> str:
    rows = [{"activity": name, "seconds": f"{value:.1f}"} for name, value in result.seconds.items()]
    return _table(pd.DataFrame(rows))


def _section(title: str, body: str) -> str:
    return f"<h2>{_text(title)}</h2>{body}"


def _table(frame: pd.DataFrame) -> str:
    return f'<div class="scroll">{frame.to_html(index=False, border=0, na_rep="-", escape=True)}</div>'


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _text(value: str) -> str:
    return html.escape(value)


def _loss(trial: Trial) -> float:
    assert trial.loss is not None
    return trial.loss


def _speed(trial: Trial) -> float:
    assert trial.speedup is not None
    return trial.speedup
