"""Measurements of half precision on this host, kept in the user's cache folder.

A file per host, named after :attr:`autotune.host.Host.fingerprint`, which changes with the packages' versions: homes
that several machines share do no harm, nor does an update. It is written to a temporary file first and then renamed,
so that a reader sees the whole of it. Where a file cannot be read or says something else, the host is measured anew;
where it cannot be written, the next process pays the same seconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autotune.adapters.onnxruntime.measure.half_speed import HalfFigure, HalfSpeeds, Kind, measure
from autotune.atomic import replacing
from autotune.cache import cache_folder
from autotune.config import Precision
from autotune.host import Host

_FORMAT_VERSION = 1

_LARGEST_SPEEDUP = 100.0
"""No type of half the size is faster by more; what a file says beyond it was not measured."""


def half_speeds(host: Host) -> HalfSpeeds:
    """Speeds measured on ``host``, which is this machine: measured once, and read from the cache from then on."""
    return _half_speeds(host.fingerprint, cache_folder())


@functools.cache
def _half_speeds(fingerprint: str, folder: Path | None) -> HalfSpeeds:
    return read_or_measure(fingerprint, folder, measure)


def read_or_measure(fingerprint: str, folder: Path | None, measured: Callable[[], HalfSpeeds]) -> HalfSpeeds:
    """The cache's entry for a host; ``measured`` is called where there is none that can be used.

    Args:
        fingerprint: Fingerprint of the host.
        folder: Folder of the cache; None where there is none.
        measured: Measures.
    """
    path = None if folder is None else folder / f"half-precision-{fingerprint}.json"
    if path is not None:
        with contextlib.suppress(Exception):  # whatever it holds, a file that cannot be used is as good as none
            return _from_json(json.loads(path.read_text(encoding="utf-8")), fingerprint)
    speeds = measured()
    if path is not None:
        with contextlib.suppress(OSError):  # a read-only home is no reason to fail
            _write(path, json.dumps(_to_json(speeds, fingerprint), indent=1))
    return speeds


def _to_json(speeds: HalfSpeeds, fingerprint: str) -> dict[str, Any]:
    figures = [dataclasses.asdict(figure) for figure in speeds.figures]
    return {"format_version": _FORMAT_VERSION, "host": fingerprint, "figures": figures}


def _from_json(data: Mapping[str, Any], fingerprint: str) -> HalfSpeeds:
    """Read what :func:`_to_json` gave.

    Raises:
        ValueError: It is of another format or host, or a value is not one of those known.
        TypeError: It is no such object, or a value is of the wrong type.
        KeyError: An entry is missing.
    """
    if (data["format_version"], data["host"]) != (_FORMAT_VERSION, fingerprint):
        raise ValueError("of another format or host")
    return HalfSpeeds(figures=tuple(_figure(entry) for entry in data["figures"]))


def _figure(entry: Mapping[str, Any]) -> HalfFigure:
    numbers = {name: None if entry[name] is None else float(entry[name]) for name in ("speedup", "low")}
    for number in numbers.values():
        if number is not None and not 0.0 < number <= _LARGEST_SPEEDUP:
            raise ValueError(f"a speedup of {number}")
    if numbers["speedup"] is not None and numbers["low"] is not None and numbers["low"] > numbers["speedup"]:
        raise ValueError("an interval beside its figure")
    if type(entry["work"]) is not int or entry["work"] <= 0 or type(entry["kernel"]) is not bool:
        raise ValueError("no work, or no answer")
    return HalfFigure(
        kind=Kind(entry["kind"]),
        work=int(entry["work"]),
        precision=Precision(entry["precision"]),
        kernel=bool(entry["kernel"]),
        speedup=numbers["speedup"],
        low=numbers["low"],
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
