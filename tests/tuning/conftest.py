"""Scripted time for runs whose time is up."""

from __future__ import annotations

import time

import pytest

from tests.tuning.deadlines import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock
