from __future__ import annotations

import os
from pathlib import Path

import pytest

from autotune.cache import LIMIT_VARIABLE, keep_within_limit, limit_bytes, used
from autotune.errors import InputError


def _file(folder: Path, name: str, age: int, size: int = 100_000) -> Path:
    path = folder / name
    path.write_bytes(bytes(size))
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "0.3")
    for age, name in enumerate(("statistics-b.npz", "fp32-c.npz", "statistics-d.npz", "fp32-e.npz")):
        _file(tmp_path, name, age)
    used(tmp_path / "fp32-e.npz")
    keep_within_limit(tmp_path, _file(tmp_path, "statistics-a.npz", 0))
    assert _names(tmp_path) == {"statistics-a.npz", "statistics-b.npz", "fp32-e.npz"}


def test_what_cannot_be_made_again_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "0")
    for name in ("trained-a.pt", "notes.txt", "statistics-old.npz"):
        _file(tmp_path, name, 5)
    keep_within_limit(tmp_path, _file(tmp_path, "statistics-new.npz", 9))
    assert _names(tmp_path) == {"trained-a.pt", "notes.txt", "statistics-new.npz"}


def test_within_the_limit_nothing_goes(tmp_path: Path) -> None:
    _file(tmp_path, "fp32-old.npz", 10**6)
    keep_within_limit(tmp_path, _file(tmp_path, "fp32-new.npz", 0))
    assert _names(tmp_path) == {"fp32-old.npz", "fp32-new.npz"}


@pytest.mark.parametrize("text", ["-1", "many", "nan"])
def test_a_limit_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    with pytest.raises(InputError, match=f"{LIMIT_VARIABLE} must be a number of megabytes.*{text}"):
        limit_bytes()
