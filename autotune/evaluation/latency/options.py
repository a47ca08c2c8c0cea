"""How latency is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from autotune.adapter import Execution
from autotune.arguments import check_fields
from autotune.bounds import require_least
from autotune.errors import InputError

FEWEST_ROUNDS = 5
"""Rounds that every comparison draws, however little time there is."""

_COMPARISON_SHARE = 0.25
_LEAST_COMPARISON_S = 2.0
"""Bounds of a comparison's time in the search: a share of the fp32 model's evaluation, and a least number of
seconds."""


class CacheState(StrEnum):
    """The state of the processor's caches when a timed call begins."""

    WARM = "warm"
    """Models run in short blocks, one after the other, and the first calls of a block are discarded: a model finds its
    own weights in the caches, as on a server that does nothing else."""
    COLD = "cold"
    """Models run call by call in turn: each finds what the others left, as beside other work on one core."""


@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """How latency is measured.

    Attributes:
        threads: Threads inside of one call.
        batch_size: Samples in one call.
        warmup: Calls of each model before the first that counts.
        min_pairs: Timed calls of each model before the first look at the interval.
        max_pairs: Timed calls of each model after which a comparison ends even if its interval is still too wide.
        interval_width: Half width that the interval of the speedup must reach, as a share of the speedup.
        confidence: Confidence of the interval.
        max_seconds: Wall time after which a comparison ends, warm-up included; ``None`` sets no limit. At least five
            rounds are always run.
        cache: Whether calls find the caches warm, in blocks of calls of one model, or cold, in turns of single calls.
        sessions: Sessions of each model at the most, where they are cheap to open: two sessions of one model differ,
            and only several tell by how much.
    """

    threads: int = 1
    batch_size: int = 1
    warmup: int = 10
    min_pairs: int = 30
    max_pairs: int = 240
    interval_width: float = 0.03
    confidence: float = 0.95
    max_seconds: float | None = 10.0
    cache: CacheState | str = CacheState.WARM
    sessions: int = 3

    def __post_init__(self) -> None:
        check_fields(self, InputError, skipped=("cache",))
        require_least(1, InputError, threads=self.threads, batch_size=self.batch_size)
        require_least(0, InputError, warmup=self.warmup)
        require_least(FEWEST_ROUNDS, InputError, min_pairs=self.min_pairs)
        require_least(1, InputError, sessions=self.sessions)
        if self.max_pairs < self.min_pairs:
            raise InputError(
                f"`min_pairs <= max_pairs` must hold, but got min_pairs={self.min_pairs}, max_pairs={self.max_pairs}"
            )
        if not 0 < self.interval_width < 1:
            raise InputError(f"`0 < interval_width < 1` must hold, but got {self.interval_width}: 0.03 is +-3 %")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"`0.5 <= confidence < 1` must hold, but got {self.confidence}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise InputError(f"`max_seconds > 0` must hold, but got {self.max_seconds}; None sets no limit")
        if self.cache not in list(CacheState):
            raise InputError(f"`cache` must be one of {[str(c) for c in CacheState]}, but got {self.cache!r}")

    @property
    def cache_state(self) -> CacheState:
        """The state of the caches when a timed call begins."""
        return CacheState(self.cache)

    @property
    def execution(self) -> Execution:
        """How an adapter makes the models ready to run."""
        return Execution(threads=self.threads)

    def priced(self, evaluation_s: float) -> LatencyOptions:
        """The same for a comparison that decides whether an evaluation is worth its price, and must not exceed it.

        A model whose call takes 100 ms would else be timed for as long as its accuracy takes on a hundred samples.

        Args:
            evaluation_s: Seconds that the fp32 model's accuracy took.
        """
        if self.max_seconds is None:
            return self
        return replace(
            self, max_seconds=min(self.max_seconds, max(_LEAST_COMPARISON_S, _COMPARISON_SHARE * evaluation_s))
        )
