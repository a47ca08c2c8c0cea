"""The file that a report is."""

from __future__ import annotations

import base64
import dataclasses
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from autotune.criterion import Criterion, Interval, Verdict
from autotune.results.report import prose, render
from autotune.results.report.view import headline
from autotune.results.summary import TuningSummary
from tests.results.report.conftest import ALL, WITHOUT_MIDDLE, MakeSummary, evidence, trial


class Page(HTMLParser):
    """The headings, tables, links and tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.links: list[str] = []
        self.tags: list[str] = []
        self._table: list[list[str]] = []
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.links += [given[name] or "" for name in ("src", "href") if name in given]
        if tag == "table":
            self._table = self.tables[given.get("id") or f"table {len(self.tables)}"] = []
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
        if tag in ("td", "th", "h1", "h2"):
            self._inside.append(tag)
            if tag in ("h1", "h2"):
                self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside and self._inside[-1] in ("td", "th"):
            self._table[-1][-1] += data
        elif self._inside:
            self.headings[-1] += data


def page(result: TuningSummary) -> Page:
    return Page(render(result))


def test_the_page_needs_nothing_else(summary: MakeSummary) -> None:
    shown = page(summary())
    assert all(link.startswith("data:") for link in shown.links)
    assert not {"link", "img", "iframe"} & set(shown.tags)


def test_the_verdict_says_what_it_is_worth(summary: MakeSummary) -> None:
    (headline, *_) = page(summary()).headings
    assert headline.replace("\u00a0", " ") == (
        "Target met: the tuned model answers in 0.625 ms instead of 1.000 ms (38 % less), takes 1.00 MB instead of "
        "1.00 MB (the same) and loses 0.20 % of accuracy, where a loss of 1 % is allowed."
    )


@pytest.mark.parametrize(
    ("loss", "relative", "told"),
    [
        (0.002, 0.01, "loses 0.20 % of accuracy"),
        (-0.002, 0.01, "gains 0.20 % of accuracy"),
        (0.0, 0.01, "loses no accuracy"),
        (-0.000001, 0.01, "loses no accuracy"),
        (-0.002, None, "gains 0.0020 of accuracy"),
    ],
)
def test_a_gain_of_accuracy_is_no_negative_loss(
    summary: MakeSummary, loss: float, relative: float | None, told: str
) -> None:
    criterion = Criterion(relative=relative, absolute=None if relative else 0.01)
    shown = summary(trial(1, ALL, loss, 2.0), criterion=criterion)
    assert told in headline(shown)
    assert "Accuracy lost" in render(shown) if loss > -0.001 else "Accuracy gained" in render(shown)


def test_a_run_without_a_candidate_says_so(summary: MakeSummary) -> None:
    fp32 = summary().baseline
    shown = summary(verdict=Verdict.UNDECIDED, best=fp32, history=[fp32])
    assert headline(shown) == "Nothing was tried in the time given: keep the fp32 model"


def test_figures_of_the_nearest_candidate_are_called_so(summary: MakeSummary) -> None:
    made = summary()
    shown = summary(verdict=Verdict.MISSED, best=made.baseline, nearest=made.history[1])
    assert "Figures of trial 1, the nearest candidate:" in render(shown)
    assert "the nearest candidate:" not in render(made)


@pytest.mark.parametrize(("low", "remark"), [(0.9, "undecided"), (1.2, "imprecise")])
def test_a_speed_is_undecided_only_where_it_may_be_none(summary: MakeSummary, low: float, remark: str) -> None:
    one = trial(1, ALL, 0.002, 1.4)
    assert one.measurement is not None
    wide = dataclasses.replace(one.measurement, latency_decided=False, speedup_interval=Interval(low=low, high=1.7))
    text = render(summary(dataclasses.replace(one, measurement=wide)))
    assert f"1.40x [{low:.2f}, 1.70] ({remark})" in text
    assert "decided)" not in text.replace(f"({remark})", "")


def test_the_picture_for_slides_says_what_it_is_of(summary: MakeSummary) -> None:
    (link,) = [each for each in page(summary()).links if each.startswith("data:image/svg+xml")]
    picture = ET.fromstring(base64.b64decode(link.split(",")[1]))
    texts = ["".join(each.itertext()) for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[:2] == ["a.onnx: target met", "trial 2, 1.60x as fast as fp32, at a loss of 0.20 %"]
    left, top, width, height = map(float, (picture.get("viewBox") or "").split())
    assert (left, width, height) == (0, float(picture.get("width", 0)), float(picture.get("height", 0)))
    assert top < 0


def test_an_op_that_no_profile_tells_apart_has_the_price_of_a_comparison(summary: MakeSummary) -> None:
    seconds = {op: by for op, by in evidence().seconds.items() if op != "<middle>"}
    known = evidence(seconds=seconds, returned={"<middle>": (0.1, 0.2)}, returned_in=WITHOUT_MIDDLE.fingerprint)
    prices = [row[-1] for row in page(summary(evidence=known)).tables["costly"][1:]]
    assert prices[0] == "+0.094 ms (+15.0 %), paid already"
    unsure = dataclasses.replace(known, returned={"<middle>": (-0.01, 0.02)})
    prices = [row[-1] for row in page(summary(evidence=unsure)).tables["costly"][1:]]
    assert prices[0] == "none that shows: -0.006 to +0.013 ms"
    other = dataclasses.replace(known, returned_in="of another trial")
    prices = [row[-1] for row in page(summary(evidence=other)).tables["costly"][1:]]
    # Trial 1 has the op quantized and answers in 0.5 ms, trial 2 has it in fp32 and answers in 0.625 ms.
    assert prices[0] == "+0.125 ms (trial 1 to 2)"
    alone = summary(trial(2, WITHOUT_MIDDLE, 0.002, 1.6), evidence=other)
    assert page(alone).tables["costly"][1][-1] == "not measured"


def test_where_the_answer_is_fp32_prices_are_those_within_int8(summary: MakeSummary) -> None:
    fp32 = summary().baseline
    shown = page(summary(best=fp32, history=[fp32], verdict=Verdict.UNDECIDED)).tables["costly"][1:]
    assert shown[0][-1] == "+0.350 ms"


def test_a_run_without_a_profile_says_how_to_get_one(summary: MakeSummary) -> None:
    assert "a longer <code>timeout</code> measures them" in render(summary(evidence=evidence(seconds={})))
    other = evidence(seconds={}, crossing={}, readers=None)
    assert "this framework does not time single ops" in render(summary(evidence=other))


def test_backticks_become_code_and_nothing_else_does() -> None:
    assert prose("give `--timeout`, not <b>") == "give <code>--timeout</code>, not &lt;b&gt;"


def test_the_sections_come_in_their_order(summary: MakeSummary) -> None:
    assert page(summary()).headings[1:] == [
        "Ops that cost most", "Result", "Loss and gain of every trial", "What each op does",
        "Tensors that are quantized worst", "Progress of the search", "Latency", "What was measured on what", "Trials",
    ]  # fmt: skip


def test_the_three_costliest_ops_stand_first_with_their_price(summary: MakeSummary) -> None:
    head, *rows = page(summary()).tables["costly"]
    assert head[-1] == "price of fp32 in one call"
    assert rows[0] == ["<middle>", "MatMul", "fp32", "80 %", "0.008", "+0.350 ms (+56.0 %), paid already"]
    assert rows[1][0] == "first"
    assert rows[1][-1] == "+0.280 ms (+44.8 %)"


def test_every_op_and_every_trial_has_a_row(summary: MakeSummary) -> None:
    tables = page(summary()).tables
    assert [row[0] for row in tables["ops"][1:]] == ["first", "<middle>", "last"]
    assert [row[:2] for row in tables["trials"][1:]] == [
        ["0", "the fp32 model as it was given"], ["1", "3 int8 ops"], ["2", "trial 1 with <middle> fp32"],
    ]  # fmt: skip
    assert all(len(row) == len(tables["ops"][0]) for row in tables["ops"])


def test_percentiles_of_fp32_are_of_the_calls_beside_the_answers(summary: MakeSummary) -> None:
    best = trial(1, ALL, 0.002, 1.6)
    assert best.measurement is not None
    measured = dataclasses.replace(best.measurement, baseline_ms=1.234, baseline_p90_ms=1.5, baseline_p99_ms=1.75)
    result = summary(dataclasses.replace(best, measurement=measured))
    assert result.baseline_latency_ms == 1.234
    assert "1.234, 1.500, 1.750 ms" in render(result)


def test_names_cannot_become_elements(summary: MakeSummary) -> None:
    assert "middle" not in page(summary()).tags


def test_what_was_measured_on_what_is_told(summary: MakeSummary) -> None:
    text = render(summary(evidence=evidence(evaluation_data="abc123")))
    for expected in ("a.onnx", "autotune run a.yaml", "2026-01-01 00:00:00 UTC", "<dt>seed</dt><dd>7</dd>"):
        assert expected in text
    assert "<dt>hash of the evaluation data</dt><dd>abc123</dd>" in text


def test_a_workspace_of_an_earlier_version_still_gives_a_report(summary: MakeSummary) -> None:
    bare = evidence(sensitivity={}, seconds={}, crossing={}, readers=None, tensors=(), runs=())
    result = summary(evidence=bare, costly_ops={"first": 0.5})
    shown = page(result)
    assert shown.tables["costly"][1:] == [["first", "0.5"]]
    assert "Tensors that are quantized worst" not in shown.headings
    assert len(shown.tables["ops"]) == 4


def test_a_drawing_for_phones_fits_them(summary: MakeSummary) -> None:
    text = render(summary())
    assert text.count('class="wide"') == text.count('class="narrow"') > 3
    widths = [
        int(part.split('"')[0])
        for part in text.split('class="narrow" viewBox="0 0 ')[1:]
        for part in [part.split(" ")[0]]
    ]
    assert max(widths) <= 390 - 2 * 16
