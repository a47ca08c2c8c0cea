"""The content of a report as data: the template writes it down and computes nothing."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autotune.criterion import Verdict
from autotune.notes import counted
from autotune.results.outcome import (
    amount_text,
    answer_text,
    holdout_text,
    leaving_text,
    nearest_text,
    proof_text,
    started_text,
    trial_name,
    verdict_text,
)
from autotune.results.report import charts
from autotune.results.report.elements import Cell, Figure, Table
from autotune.results.report.ops import OpRow, Pair, costliest, op_rows, pairs_of_ops
from autotune.results.report.provenance import facts
from autotune.results.report.svg import WIDE, Drawing, Size, both
from autotune.results.report.tables import (
    comparison,
    measured_models,
    op_table,
    precision_counts,
    time_spent,
    trial_rows,
)
from autotune.results.report.words import (
    format_loss,
    format_speedup,
    megabytes,
    milliseconds,
    percent,
    scientific,
    signed_ms,
)
from autotune.results.summary import TuningSummary
from autotune.trial import Measurement

_SMALL = Size(width=380, height=160)
_SMALL_NARROW = Size(width=340, height=150)
_SLIDE_STYLE = (
    "text{font:13px sans-serif;fill:#222}.heading{font-size:18px;font-weight:600}.subheading{fill:#555}"
    ".tick{fill:#555}.name{font-weight:600}.grid{stroke:#e6e6e6}.axis{stroke:#888}"
    ".target{stroke:#b3261e;stroke-dasharray:6 4}.target-text{fill:#b3261e}.front{fill:none;stroke:#888}"
    ".met{fill:#18864b;stroke:#18864b}.missed{fill:#b3261e;stroke:#b3261e}.other{fill:#777;stroke:#777}"
    ".bar{opacity:.45}.part{opacity:.5}.dropped{fill:none;stroke:#777;stroke-width:1.5}"
)


@dataclass(frozen=True, kw_only=True)
class ReportView:
    """Everything that a report shows, in its order. Empty parts are left out.

    Attributes:
        title: Title of the page, with the model's name where it is known.
        kind: Class of the verdict: ``met``, ``missed`` or ``undecided``.
        headline: The verdict in one sentence.
        lines: Why this is the answer, and what a reader should know besides.
        worth: Gains of the answer: the name of a figure, its value, and that of fp32 beside it.
        worth_text: Which candidate these are of, where it is not the answer.
        costly: The ops whose quantization costs most accuracy, and the price of fp32 for each.
        costly_text: Meaning of these figures.
        comparison: Figures of fp32, the answer and what is offered beside it.
        scatter: Every trial.
        picture: The same as a picture that stands alone, in base64; empty where there is none.
        ops: The per-op table.
        ops_text: Meaning of its figures.
        choices: Graph-wide choices of the config that is shown.
        tensors: Histograms of the tensors that are quantized worst.
        progress: The search against time.
        latency: Latency distributions.
        races: The races of the finalists: drawing and table.
        facts: Model, data, strategy and host.
        command: The command that repeats the run.
        trials: The table of trials.
        precision: How many ops of each type compute in which precision.
        saturation: The ops that can saturate on other CPUs.
        seconds: Where the time went.
        notes: Notes of the run.
    """

    title: str
    kind: str
    headline: str
    lines: Sequence[str]
    worth: Sequence[tuple[str, str, str]]
    worth_text: str
    costly: Table | None
    costly_text: str
    comparison: Table
    scatter: Figure | None
    picture: str
    ops: Table
    ops_text: str
    choices: str
    tensors: Sequence[Figure]
    progress: Figure | None
    latency: Figure | None
    races: Sequence[tuple[Figure, Table]]
    facts: Sequence[tuple[str, str]]
    command: str
    trials: Table
    precision: Table
    saturation: Sequence[str]
    seconds: Table | None
    notes: Sequence[str] = field(default=())


def view_of(result: TuningSummary) -> ReportView:
    """The report of a result as data."""
    rows = op_rows(result)
    known, command = facts(result)
    slide = charts.scatter(result, WIDE)
    return ReportView(
        kind=str(result.verdict if result.success or result.verdict is not Verdict.MET else Verdict.UNDECIDED),
        title=_title(result),
        headline=headline(result),
        lines=_lines(result),
        worth=_worth(result),
        worth_text=(
            f"Figures of {trial_name(result.nearest)}, the nearest candidate:"
            if result.nearest is not None and result.best.config.is_fp32
            else ""
        ),
        costly=_costly(result, rows),
        costly_text=_costly_text(result, rows),
        comparison=comparison(result),
        scatter=_drawn(
            "Loss and gain of every trial", lambda size: charts.scatter(result, size), _scatter_text(result)
        ),
        picture="" if slide is None else _picture(slide, result),
        ops=op_table(rows),
        ops_text=_ops_text(result),
        choices=", ".join(
            f"{name.replace('_', ' ')} {str(value).lower().replace('_', ' ')}"
            for name, value in result.shown.config.recipe.to_json().items()
        ),
        tensors=_tensors(result),
        progress=_drawn("Progress of the search", lambda size: charts.progress(result, size)),
        latency=_drawn("Latency", lambda size: charts.latencies(measured_models(result), size)),
        races=_races(result),
        facts=known,
        command=command,
        trials=trial_rows(result),
        precision=precision_counts(result),
        saturation=tuple(result.saturation_risk),
        seconds=time_spent(result),
        notes=tuple(result.notes),
    )


def _picture(slide: Drawing, result: TuningSummary) -> str:
    """The drawing for slides, headed by what it is of, in base64."""
    runs = result.evidence.runs
    model = f"{runs[-1]['model']}: " if runs and runs[-1].get("model") else ""
    heading = [f"{model}{verdict_text(result).lower()}", answer_text(result)]
    if not result.best.config.is_fp32:
        heading[1] += f", at a loss of {format_loss(result.best.loss, result.criterion)}"
    return base64.b64encode(slide.picture(_SLIDE_STYLE, heading).encode()).decode()


def _title(result: TuningSummary) -> str:
    runs = result.evidence.runs
    model = str(runs[-1].get("model", "")) if runs else ""
    return f"Tuning report of {model}" if model else "Tuning report"


def headline(result: TuningSummary) -> str:
    """The verdict in one sentence, without its full stop."""
    best = result.best
    if best.config.is_fp32:
        nothing = len(result.history) < 2 and result.verdict is Verdict.UNDECIDED
        verdict = "Nothing was tried in the time given" if nothing else verdict_text(result)
        return f"{verdict}: keep the fp32 model"
    measured, baseline = best.measurement or Measurement(), result.baseline.measurement or Measurement()
    parts = []
    fp32_ms = result.baseline_latency_ms
    if measured.latency_ms is not None and fp32_ms:
        parts.append(
            f"answers in {milliseconds(measured.latency_ms)} instead of {milliseconds(fp32_ms)} "
            f"({_change(measured.latency_ms, fp32_ms)})"
        )
    if measured.throughput is not None and baseline.throughput:
        parts.append(f"serves {measured.throughput:.4g} samples per second instead of {baseline.throughput:.4g}")
    if measured.size_bytes and baseline.size_bytes:
        parts.append(
            f"takes {megabytes(measured.size_bytes)} instead of {megabytes(baseline.size_bytes)} "
            f"({_change(measured.size_bytes, baseline.size_bytes)})"
        )
    word, amount = _accuracy_change(result, best.loss)
    loss = f"{word} {amount} of accuracy" if amount else f"{word} accuracy"
    whole = f"{verdict_text(result)}: the tuned model {', '.join(parts)}{' and ' if parts else ''}{loss}"
    if result.constraints is not None:
        return f"{whole}. Asked for was the least loss with {result.constraints}"
    return f"{whole}, where a loss of {amount_text(result.criterion)} is allowed"


def _accuracy_change(result: TuningSummary, loss: float | None) -> tuple[str, str]:
    """A verb, and how much is lost or gained; empty where it is nothing in the digits that are shown."""
    lost = format_loss(loss, result.criterion)
    if loss is None or lost == format_loss(0.0, result.criterion) or lost == format_loss(-0.0, result.criterion):
        return "loses no", ""
    return ("loses", lost) if loss > 0 else ("gains", format_loss(-loss, result.criterion))


def _change(now: float, before: float) -> str:
    share = now / before - 1
    if abs(share) < 0.005:
        return "the same"
    return f"{percent(abs(share))} {'less' if share < 0 else 'more'}"


def _lines(result: TuningSummary) -> list[str]:
    answer = answer_text(result)
    if result.best.config.is_fp32:
        answer = f"{answer[0].upper()}{answer[1:]}"
    else:
        answer = f"The answer: {answer}, at a loss of {format_loss(result.best.loss, result.criterion)}"
    lines = [f"{answer}.", f"Why this one: {result.reason}."]
    texts = (started_text(result), leaving_text(result), proof_text(result), nearest_text(result), holdout_text(result))
    lines += [f"{text}." for text in texts if text is not None]
    return [*lines, f"The search ended: {result.end_reason}."]


def _worth(result: TuningSummary) -> list[tuple[str, str, str]]:
    """The candidate that the verdict is about, beside fp32."""
    trial = result.best if not result.best.config.is_fp32 else result.nearest
    measured = (trial.measurement if trial else None) or Measurement()
    baseline, fp32_ms = result.baseline.measurement or Measurement(), result.baseline_latency_ms
    cards = []
    if measured.latency_ms is not None and fp32_ms:
        change = _change(measured.latency_ms, fp32_ms)
        cards.append(("One call", milliseconds(measured.latency_ms), f"fp32: {milliseconds(fp32_ms)}, {change}"))
    if measured.loss is not None:
        word, amount = _accuracy_change(result, measured.loss)
        asked = f"allowed: a loss of {amount_text(result.criterion)}"
        if result.constraints is not None:
            asked = f"asked for: the least loss with {result.constraints}"
        cards.append(("Accuracy gained" if word == "gains" else "Accuracy lost", amount or "none", asked))
    if measured.throughput is not None and baseline.throughput:
        fp32 = f"fp32: {baseline.throughput:.4g}, {counted(result.instances or 1, 'instance')}"
        cards.append(("Samples per second", f"{measured.throughput:.4g}", fp32))
    if measured.size_bytes and baseline.size_bytes:
        change = _change(measured.size_bytes, baseline.size_bytes)
        cards.append(("Size", megabytes(measured.size_bytes), f"fp32: {megabytes(baseline.size_bytes)}, {change}"))
    return cards


def _costly(result: TuningSummary, rows: Sequence[OpRow]) -> Table | None:
    worst = costliest(rows)
    if not worst:
        # A summary of an earlier version, or of a run whose figures are not at hand, has the worst ops alone.
        worst_of_old = [[Cell(text=op), Cell(text=scientific(value))] for op, value in result.costly_ops.items()]
        return Table(columns=("op", "noise to signal at the outputs"), rows=worst_of_old) if worst_of_old else None
    total, pairs = (result.shown.measurement or Measurement()).latency_ms, pairs_of_ops(result)
    table = [
        [
            Cell(text=row.name),
            Cell(text=row.op_type),
            Cell(text=str(row.choice.precision)),
            Cell(text="-" if row.share is None else percent(row.share)),
            Cell(text=("≈ " if row.guessed else "") + scientific(row.sensitivity or 0.0)),
            Cell(text=_price(row, None if result.shown.config.is_fp32 else total, pairs.get(row.name))),
        ]
        for row in worst
    ]
    columns = ("op", "type", "precision here", "share of all noise", "noise to signal", "price of fp32 in one call")
    return Table(columns=columns, rows=table, words=frozenset({0, 1, 2}))


def _price(row: OpRow, total_ms: float | None, pair: Pair | None) -> str:
    if row.price_ms is None:
        return _price_of_pair(pair)
    text = signed_ms(row.price_ms) + (f" ({row.price_ms / total_ms * 100:+.1f} %)" if total_ms else "")
    if row.price_ends_ms is not None and row.price_ends_ms[0] <= 0 <= row.price_ends_ms[1]:
        return f"none that shows: {row.price_ends_ms[0]:+.3f} to {row.price_ends_ms[1]:+.3f} ms"
    if row.quantized or total_ms is None:
        return text
    return f"{text}, paid already" if row.price_ms > 0 else f"{text}, gained already"


def _price_of_pair(pair: Pair | None) -> str:
    """The price that two trials tell, where no figure of the op alone is known."""
    if pair is None or pair.price_ms is None:
        return "not measured"
    others = f", with {counted(len(pair.others), 'other op')}" if pair.others else ""
    return f"{signed_ms(pair.price_ms)}{others} (trial {pair.before.number} to {pair.after.number})"


def _costly_text(result: TuningSummary, rows: Sequence[OpRow]) -> str:
    shown = _shown_name(result)
    noise = "Noise: what the op adds to the outputs when it alone is quantized."
    if any(row.guessed for row in costliest(rows)):
        noise += " Where it says ≈, ops were measured in groups, and this is the op's part of its group."
    if any(row.price_ms is not None for row in rows):
        others = "quantized" if result.shown.config.is_fp32 else f"as in {shown}"
        return f"{noise} Price: how much longer one call takes with the op in fp32, all others {others}."
    return f"{noise} {_no_profile(result)}"


def _no_profile(result: TuningSummary) -> str:
    """Why no price is known, and how to get one."""
    if any(result.evidence.crossing) or result.evidence.readers is not None:
        why = "the time was up before single ops were timed, and a longer `timeout` measures them"
    else:
        why = "this framework does not time single ops"
    return f"Price: {why}. Two trials tell it that differ in few ops, where there are any."


def _shown_name(result: TuningSummary) -> str:
    return "the answer" if result.shown.number == result.best.number else trial_name(result.shown)


def _drawn(title: str, draw: Callable[[Size], Drawing | None], text: str = "") -> Figure | None:
    svg = both(draw)
    return Figure(title=title, svg=svg, text=text) if svg else None


def _scatter_text(result: TuningSummary) -> str:
    drawn = charts.points(result)
    missing = len(result.history) - len(drawn)
    text = "Lines are intervals, crosses are trials that were dropped early, triangles lie beyond the frame."
    return text + (f" Not measured, and in the table alone: {missing} of {len(result.history)}." if missing else "")


def _ops_text(result: TuningSummary) -> str:
    text = f"Choices and prices are those of {_shown_name(result)}. "
    if result.evidence.sensitivity:
        text += "Sensitivity is the noise-to-signal ratio at the outputs where the op alone is quantized. "
    else:
        text += "This run measured no sensitivity: its strategy did not ask for it. "
    if not result.evidence.seconds:
        text += "It took no profile of single ops either. " if not result.evidence.sensitivity else (
            "It took no profile of single ops. "
        )  # fmt: skip
    if result.evidence.seconds and result.evidence.readers is None:
        text += "Prices leave conversions out: this workspace does not say which ops read each other. "
    return text.strip()


def _tensors(result: TuningSummary) -> list[Figure]:
    figures = []
    for tensor in result.evidence.tensors:
        text = (
            f"{tensor.scheme.replace('_', ' ')}: {tensor.low:.3g} to {tensor.high:.3g}; "
            f"error {percent(tensor.noise)} of the variance; read by "
            f"{', '.join(tensor.ops[:3])}{'…' if len(tensor.ops) > 3 else ''}"
        )
        svg = both(lambda size, tensor=tensor: charts.histogram(tensor, size), _SMALL, _SMALL_NARROW)  # type: ignore[misc]  # as above
        figures.append(Figure(title=tensor.name, svg=svg, text=text))
    return figures


def _races(result: TuningSummary) -> list[tuple[Figure, Table]]:
    """Every race: its finalists, their figures there and in the search, and what it proved."""
    words = {True: "faster", False: "not faster", None: "undecided"}
    races = []
    for race in result.races:
        rows = [
            [
                Cell(text=str(each.number)),
                Cell(text=f"{each.latency_ms:.3f} ms"),
                Cell(text=format_speedup(each.speedup, each.interval)),
                Cell(text=format_speedup(each.searched)),
                Cell(text=words[each.faster]),
                Cell(text="not beaten" if each.survived else "proven slower than another"),
                Cell(text=str(each.rounds)),
            ]
            for each in race.finalists
        ]
        columns = (
            "trial",
            "latency",
            "speedup",
            "speedup in the search",
            "against fp32",
            "among the finalists",
            "rounds",
        )
        end = "The race was decided." if race.decided else "Its time was up before the finalists could be told apart."
        text = (
            f"{result.fp32_name} took {race.baseline_ms:.3f} ms. Each model was timed in "
            f"{counted(race.sessions, 'session')}, with {race.cache} caches. {end}"
        )
        svg = both(lambda size, race=race: charts.race_chart(race, size))  # type: ignore[misc]  # as above
        races.append((Figure(title="Race of the finalists", svg=svg, text=text), Table(columns=columns, rows=rows)))
    return races
