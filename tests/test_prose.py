"""Docstrings and comments name their subject: no sentence in them begins with a word that leaves it to be guessed."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("adapters", "autotune", "benchmarks", "examples", "strategies", "tests")

FRAGMENT = re.compile(r"(?:\A|[.:;]\s+)((?:Of|What|Whose|In vain)\b[^.]*)")
"""A relative clause or a genitive in the place of a subject: "Of the worker.", "What is quantized."."""


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Docstrings and comments with their lines; comments on lines that follow each other are one text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    block: list[str] = []
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if token.start[0] != last + 1 and block:
            yield last, " ".join(block)
            block = []
        block.append(token.string.lstrip("#: "))
        last = token.start[0]
    if block:
        yield last, " ".join(block)


def fragments(source: str) -> list[tuple[int, str]]:
    return [
        (line, " ".join(found.split()))
        for line, text in prose(source)
        for paragraph in re.split(r"\n\s*\n", text.strip())
        for found in FRAGMENT.findall(paragraph.strip())
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_sentence_begins_with_a_fragment(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.is_relative_to(ROOT / "autotune/strategies") and not path.is_relative_to(ROOT / "autotune/adapters")
        for line, text in fragments(path.read_text())
    ]
    assert not found, "name the subject in these sentences:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        '"""Of the worker."""',
        '"""Arguments.\n\nWhat is quantized."""',
        'def f(a):\n    """A function.\n\n    Args:\n        a: Of the model.\n    """',
        'X = 1\n"""Seconds. What a trial may take."""',
        "x = 1  # Whose turn it is.",
        "# A comment that goes on.\n# In vain, since it fails.",
    ],
)
def test_fragments_are_found(source: str) -> None:
    assert len(fragments(source)) == 1


def test_sentences_pass() -> None:
    assert not fragments('"""Arguments of the worker; what it returns is kept."""\n# The part of it that is left.')
