from __future__ import annotations

import numpy as np

from autotune.adapter import Array, Feeds
from autotune.cores import usable_cores
from autotune.evaluation.accuracy.wide import WideRunner


def test_only_large_batches_go_to_all_cores() -> None:
    calls: list[str] = []

    def named(name: str) -> object:
        def run(feeds: Feeds) -> tuple[Array, ...]:
            calls.append(name)
            return tuple(feeds.values())

        return run

    def make_wide() -> object:
        calls.append("made")
        return named("wide")

    runner = WideRunner(named("narrow"), make_wide)  # type: ignore[arg-type]  # plain functions are runners
    for size in (1, 32, 7, 8):
        (output,) = runner({"x": np.zeros((size, 2), np.float32)})
        assert output.shape == (size, 2)
    assert calls == ["narrow", "made", "wide", "narrow", "wide"]


def test_there_is_a_core() -> None:
    assert len(usable_cores()) >= 1
