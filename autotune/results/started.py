"""The config that a run started from, and whether its evaluation confirms it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from autotune.criterion import Verdict


@dataclass(frozen=True, kw_only=True)
class StartedFrom:
    """Outcome of the config that a run started from.

    Attributes:
        source: Where the config comes from, as the user named it.
        verdict: Whether it is confirmed (``met``): it keeps the target and improves on fp32; refuted (``missed``), or
            undecided.
        trial: Number of the trial that evaluated it; None where there was nothing to evaluate.
        reason: Why, where it is not confirmed.
    """

    source: str
    verdict: Verdict
    trial: int | None = None
    reason: str = ""

    @property
    def confirmed(self) -> bool:
        """Whether it keeps the target and improves on fp32."""
        return self.verdict is Verdict.MET

    def to_json(self) -> dict[str, Any]:
        """A JSON value that :meth:`from_json` reads."""
        return {"source": self.source, "verdict": str(self.verdict), "trial": self.trial, "reason": self.reason}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(**{**data, "verdict": Verdict(data["verdict"])})
