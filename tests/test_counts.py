"""Messages say ``1 op`` and ``2 ops``: a number before a noun goes through :func:`autotune.notes.counted`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.notes import counted

ROOT = Path(__file__).parents[1]
NOUNS = (
    "arrays|candidates|configs|configurations|cores|images|inputs|instances|labels|layers|ops|outputs|samples|tensors|"
    "trials"
)
FOLLOWS = re.compile(rf" (?:[a-z][a-z-]* )?(?:{NOUNS})\b")
NO_NUMBER = {"are", "for", "has", "holds", "needs", "on", "reads", "takes", "that"}
"""Words before a noun that show that what stands before them is no number of it."""
ALWAYS_SEVERAL = {
    "autotune/algorithms/blocks.py: LARGEST_INPUTS": "a constant",
    "autotune/results/outcome.py: uses": "one use has a sentence of its own",
    "autotune/tuning/selection.py: len(keep)": "one candidate has a sentence of its own",
    "autotune/tuning/selection.py: len(judged)": "one candidate has a sentence of its own",
    "autotune/tuning/selection.py: failed": "one candidate has a sentence of its own",
    "autotune/tuning/tuner.py: self.instances": "stored workspaces have this text, and it must stay as it is",
    "autotune/results/report/view.py: measured.throughput": "a rate of four digits, rarely a whole number",
    "adapters/pytorch/arguments.py: most": "the end of a range of several",
    "strategies/exhaustive.py: self.limit": "a limit of many",
}


def uncounted(source: str) -> Iterator[str]:
    """Expressions in the f-strings of a file that stand right before a noun in the plural."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, text in zip(node.values, node.values[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            found = FOLLOWS.match(str(text.value))
            if found and not NO_NUMBER & set(found.group().split()):
                yield ast.unparse(value.value)


def test_no_message_counts_by_hand() -> None:
    files = [path for folder in ("autotune", "strategies", "adapters") for path in (ROOT / folder).rglob("*.py")]
    places = {
        f"{path.resolve().relative_to(ROOT)}: {name}"
        for path in files
        for name in uncounted(path.read_text(encoding="utf-8"))
    }
    assert places - set(ALWAYS_SEVERAL) == set()


def test_counts_by_hand_are_found() -> None:
    assert [*uncounted('f"{n} ops"; f"{n} quantized ops in fp32"; f"{name} takes arrays"; f"{op} computes"')] == [
        "n"
    ] * 2


@pytest.mark.parametrize(
    ("number", "noun", "plural", "text"),
    [
        (0, "op", "", "0 ops"),
        (1, "op", "", "1 op"),
        (1, "logical core", "", "1 logical core"),
        (2, "box", "boxes", "2 boxes"),
        (2000, "sample", "", "2,000 samples"),
    ],
)
def test_counted(number: int, noun: str, plural: str, text: str) -> None:
    assert counted(number, noun, plural) == text
