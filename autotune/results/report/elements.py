"""The elements that a report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: Text of the cell.
        key: Number that the column is sorted by; None sorts by the text.
        title: The whole of a text that is cut short.
    """

    text: str
    key: float | None = None
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        columns: Names of the columns.
        rows: Its rows.
        words: Indices of the columns that hold words, which stand on the left.
        marked: Indices of the rows that are emphasized.
        roomy: Indices of the columns that hold sentences.
        searchable: Whether it is long enough to be filtered and sorted.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: frozenset[int] = frozenset({0})
    roomy: frozenset[int] = frozenset()
    marked: frozenset[int] = frozenset()
    searchable: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing and what belongs to it.

    Attributes:
        title: Its heading.
        svg: The drawing, as SVG.
        text: Caption.
    """

    title: str
    svg: str
    text: str = ""
