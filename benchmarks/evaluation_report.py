"""How the evaluator's benchmarks print and store what they found."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from autotune.host import current_host

FORMAT_VERSION = 1
SHARED = Path(__file__).resolve().parent.parent / "../shared/data"
CIFAR = (np.array([0.4914, 0.4822, 0.4465], np.float32), np.array([0.2470, 0.2435, 0.2616], np.float32))
IMAGENET = (np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32))


def report(name: str, rows: Sequence[Mapping[str, Any]], *, seed: int, out: Path | None) -> None:
    """Print rows as a table, and write them with what they depend on."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = [columns, *([_text(row.get(key, "")) for key in columns] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if out is not None:
        found = {
            "format_version": FORMAT_VERSION,
            "benchmark": name,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seed": seed,
            "host": current_host().to_json(),
            "rows": list(rows),
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n")
        print(f"written to {out}")


def images(
    split: str, count: int, size: int, normalisation: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """CIFAR-10 pictures as the shared models read them, shape (count, 3, size, size), and their labels."""
    with np.load(SHARED / f"cifar10_{split}.npz") as archive:
        pictures, labels = archive["images"][:count], archive["labels"][:count]
    mean, deviation = normalisation
    resized = np.stack(
        [np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR)) for picture in pictures]
    )
    scaled = (resized.astype(np.float32) / 255 - mean) / deviation
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)), labels


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
