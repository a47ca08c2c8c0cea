"""Names of points in a drawing, placed so that none covers another."""

from __future__ import annotations

from dataclasses import dataclass, field

from autotune.results.report.svg import Drawing

_LETTER = 7.0
"""Width of a letter in CSS pixels, of the widest font that browsers take for it."""
_LINE = 14.0
_GAP = 10.0
_ABOVE, _BELOW = -8.0, 18.0
"""Baselines beside a point, from its middle."""


@dataclass
class Labels:
    """The texts of one drawing so far, and the space that they take.

    Attributes:
        drawing: The drawing.
        taken: Left end, right end and baseline of each text.
    """

    drawing: Drawing
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def text(self, x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> None:
        """A text that stands where it stands."""
        width = _LETTER * len(text)
        start = x - width if anchor == "end" else x
        self.taken.append((start, start + width, y))
        self.drawing.text(x, y, text, kind, anchor=anchor)

    def point(self, x: float, y: float) -> None:
        """A point that no name should cover."""
        self.taken.append((x - 5, x + 5, y + 4))

    def name(self, x: float, y: float, text: str, kind: str = "name") -> bool:
        """Name a point in the first free place beside it; False where each would cover something."""
        width = _LETTER * len(text)
        for down in (_ABOVE, _BELOW):
            for start in (x + _GAP, x - _GAP - width):
                if self._free(start, start + width, y + down):
                    anchor, at = ("start", x + _GAP) if start > x else ("end", x - _GAP)
                    self.text(at, y + down, text, kind, anchor=anchor)
                    return True
        return False

    def _free(self, start: float, stop: float, line: float) -> bool:
        size = self.drawing.size
        inside = start >= size.left and stop <= size.width - size.right and line <= size.height - size.bottom
        return inside and not any(start < b and a < stop and abs(line - other) < _LINE for a, b, other in self.taken)
