"""Drawings as SVG: a frame with axes, and marks in it. Colors are classes, so that light and dark are CSS's."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Size:
    """Width and height of a drawing, and the room around its frame, in CSS pixels."""

    width: int
    height: int
    left: int = 56
    right: int = 20
    top: int = 28
    bottom: int = 44


_HEADING = 24
"""Height of a line of a picture's heading, in CSS pixels."""
WIDE = Size(width=920, height=420)
NARROW = Size(width=358, height=340, left=48, right=14)
"""Sizes that a drawing is made in, so that its text is as large on a phone as on a desk; CSS shows one of them."""


@dataclass
class Drawing:
    """A drawing in the making.

    Attributes:
        size: Its size.
        title: Description, for those who do not see it.
        parts: Its elements so far, in the order in which they are painted.
        x: Where a value of the horizontal axis lies; set by :meth:`axes`.
        y: Where a value of the vertical axis lies.
    """

    size: Size
    title: str
    parts: list[str] = field(default_factory=list)
    x: Callable[[float], float] = field(default=lambda value: value)
    y: Callable[[float], float] = field(default=lambda value: value)

    def axes(
        self,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        *,
        x_label: str,
        y_label: str,
        x_text: Callable[[float], str],
        y_text: Callable[[float], str],
    ) -> None:
        """Draw the frame with ticks, and say where values lie from now on; values outside lie on the frame."""
        size = self.size
        right, bottom = size.width - size.right, size.height - size.bottom
        self.x = _scale(x_range, (size.left, right))
        self.y = _scale(y_range, (bottom, size.top))
        for value in ticks(*x_range, 5 if size.width < 500 else 8):
            at = self.x(value)
            self.line(at, size.top, at, bottom, "grid")
            self.text(at, bottom + 16, x_text(value), "tick", anchor="middle")
        for value in ticks(*y_range, 6):
            if not y_text(value):
                continue  # rows that have names
            at = self.y(value)
            self.line(size.left, at, right, at, "grid")
            self.text(size.left - 6, at + 4, y_text(value), "tick", anchor="end")
        self.line(size.left, bottom, right, bottom, "axis")
        self.line(size.left, size.top, size.left, bottom, "axis")
        self.text(right, size.height - 8, x_label, "label", anchor="end")
        self.text(4, 14, y_label, "label")

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self.parts.append(f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        if points:
            steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            self.parts.append(f'<path class="{kind}" d="M{steps}"/>')

    def box(self, x: float, y: float, width: float, height: float, kind: str, title: str = "") -> None:
        """A rectangle; a negative width or height counts as none."""
        self.parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}">'
            f"{_title(title)}</rect>"
        )

    def dot(self, x: float, y: float, kind: str, radius: float, title: str) -> None:
        """A point."""
        self.parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}">{_title(title)}</circle>')

    def cross(self, x: float, y: float, kind: str, title: str) -> None:
        """A point that stands for what was dropped."""
        self.parts.append(f'<path class="{kind}" d="M{x - 4:.1f} {y - 4:.1f}l8 8m-8 0l8 -8">{_title(title)}</path>')

    def triangle(self, x: float, y: float, kind: str, title: str, *, rightwards: bool = False) -> None:
        """A point that lies beyond the frame, in the direction that it points to."""
        shape = "l-8 -5v10z" if rightwards else "l-5 8h10z"
        self.parts.append(f'<path class="{kind}" d="M{x:.1f} {y:.1f}{shape}">{_title(title)}</path>')

    def text(self, x: float, y: float, text: str, kind: str = "", *, anchor: str = "start") -> None:
        """A line of text, on its baseline."""
        self.parts.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
        )

    def svg(self, kind: str = "") -> str:
        """The drawing, for a page whose style sheet knows its classes."""
        return self._element(f'class="{kind}" viewBox="0 0 {self.size.width} {self.size.height}"', self.size.height)

    def picture(self, style: str, heading: Sequence[str]) -> str:
        """The drawing as a picture that stands alone.

        Args:
            style: CSS of its classes.
            heading: Lines above it, the first of which is larger.
        """
        size, room = self.size, _HEADING * len(heading) + _HEADING // 2
        lines = "".join(
            f'<text class="{"heading" if not index else "subheading"}" x="4" y="{_HEADING * (index + 1) - room}">'
            f"{html.escape(line)}</text>"
            for index, line in enumerate(heading)
        )
        back = f'<rect y="-{room}" width="{size.width}" height="{size.height + room}" fill="#fff"/>'
        view = f'viewBox="0 -{room} {size.width} {size.height + room}"'
        return self._element(view, size.height + room, f"<style>{style}</style>{back}{lines}")

    def _element(self, attributes: str, height: int, before: str = "") -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {attributes} width="{self.size.width}" height="{height}" '
            f'role="img" aria-label="{html.escape(self.title)}">{before}{"".join(self.parts)}</svg>'
        )


def both(draw: Callable[[Size], Drawing | None], wide: Size = WIDE, narrow: Size = NARROW) -> str:
    """A drawing for desks and one for phones; empty where there is nothing to draw."""
    large, small = draw(wide), draw(narrow)
    return "" if large is None or small is None else large.svg("wide") + small.svg("narrow")


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round values between two ends, about as many as asked for."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((nice * power for nice in (1, 2, 2.5, 5, 10) if nice * power >= raw), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * index for index in range(first, last + 1)]


def _scale(values: tuple[float, float], pixels: tuple[float, float]) -> Callable[[float], float]:
    (low, high), (start, stop) = values, pixels
    span = high - low or 1.0
    return lambda value: start + (min(max(value, low), high) - low) / span * (stop - start)


def _title(text: str) -> str:
    return f"<title>{html.escape(text)}</title>" if text else ""
