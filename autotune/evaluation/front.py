"""Evaluators that stand in front of another one and change some of its answers."""

from __future__ import annotations

from typing import Any


class EvaluatorInFront:
    """Answers as another evaluator does; subclasses answer some questions otherwise.

    Args:
        evaluator: The evaluator behind it, or one that stands in front of it itself.
    """

    def __init__(self, evaluator: Any) -> None:
        self._evaluator = evaluator

    def __getattr__(self, name: str) -> Any:
        """All else is the other evaluator's."""
        return getattr(self._evaluator, name)
