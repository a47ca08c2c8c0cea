"""NNCF's ``quantize`` and ``quantize_with_accuracy_control`` on an ONNX model that OpenVINO reads.

``runtimes.py`` runs it in an environment of its own, where neither autotune nor what it needs is installed:
``python nncf_peer.py MODEL DATA.npz FOLDER RELATIVE_LOSS``. Writes ``quantize.xml`` and ``accuracy_control.xml`` with
their weights into the folder, and prints seconds of wall and processor time of both as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov


def timed(make: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result of a call, and its seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    made = make()
    return made, {"wall_s": time.perf_counter() - wall, "processor_s": time.process_time() - processor}


def correct(model: Any, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[float, list[float]]:
    """Share of the images that are classified right, and the same for each batch."""
    right = [(np.asarray(model(images)[0]).argmax(1) == labels) for images, labels in batches]
    return float(np.concatenate(right).mean()), [float(each.mean()) for each in right]


def main() -> None:
    """Quantize in both ways."""
    source, data, folder, drop = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    with np.load(data) as archive:
        calibration, images, labels = (archive[name] for name in ("calibration", "images", "labels"))
    single = nncf.Dataset([image[None] for image in calibration])
    whole = nncf.Dataset([(images[i : i + 50], labels[i : i + 50]) for i in range(0, len(images), 50)])
    report = {}
    model, report["quantize"] = timed(
        lambda: nncf.quantize(ov.Core().read_model(source), single, subset_size=len(calibration))
    )
    ov.save_model(model, folder / "quantize.xml", compress_to_fp16=False)
    model, report["accuracy_control"] = timed(
        lambda: nncf.quantize_with_accuracy_control(
            ov.Core().read_model(source),
            calibration_dataset=single,
            validation_dataset=whole,
            validation_fn=correct,
            subset_size=len(calibration),
            max_drop=drop,
            drop_type=nncf.DropType.RELATIVE,
        )
    )
    ov.save_model(model, folder / "accuracy_control.xml", compress_to_fp16=False)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
