"""``tune`` of Paddle programs, beside ``paddle.static.quantization``, in speed, loss and seconds.

Run from the root of the repository, with ``pip install '.[paddle,images]'``:
``python benchmarks/frameworks_paddle.py --json result.json``. Both ways get the same program, made of the ONNX file's
weights, and the same images; the seconds of ``tune`` include its evaluations. ``--seeds`` also measures the
architectures of published figures: ResNet-50 and MobileNet-V1 with all convolutions in int8 over fp32. The result is
described in ``frameworks.py``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from framework_race import FP32, PEER, TARGET, Entry, call, compare, parser, race
from paddle_models import from_onnx, mobilenet_v1, resnet50, saved
from shared import Subject, print_rows, write_result

from autotune.adapter import Execution
from autotune.adapters.paddle.adapter import PaddleAdapter
from autotune.config import QuantizationConfig, Recipe
from autotune.host import current_host

ADAPTER = PaddleAdapter()
ONE = Execution(threads=1)
PUBLISHED = {"resnet50": resnet50, "mobilenet_v1": mobilenet_v1}
"""By name of a figure in ``frameworks.py``: makes the layer of its architecture."""


def peer(program: Path, images: Any, target: Path) -> float:
    """Seconds that Paddle's own tool took to quantize a program."""
    data = target.with_suffix(".npy")
    np.save(data, images)
    script = Path(__file__).with_name("paddle_peer.py")
    said = subprocess.run(
        [sys.executable, script, program.parent, program.name, data, target], capture_output=True, text=True, check=True
    )
    return float(next(line for line in said.stdout.splitlines() if line.startswith("seconds ")).split()[1])


def enter(subject: Subject, options: argparse.Namespace, folder: Path) -> Entry:
    """The program of a model, and what Paddle's own tool makes of it."""
    calibration = subject.batches("calibration", options.calibration, 20)
    program = from_onnx(subject.path, folder / f"{FP32}.pdmodel")
    seconds = peer(program, np.concatenate([images for images, _ in calibration]), folder / PEER)
    evaluation = subject.batches("evaluation", options.images, 100)
    quantized = folder / f"{PEER}.pdmodel"
    return Entry(fp32=program, peer=quantized, seconds=seconds, calibration=calibration, evaluation=evaluation)


def published(options: argparse.Namespace) -> list[dict[str, object]]:
    """The speed of all convolutions in int8, of the architectures that published figures are of."""
    rows: list[dict[str, object]] = []
    rng = np.random.default_rng(options.seed)
    for figure, made in PUBLISHED.items():
        with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
            model = ADAPTER.load(saved(made(), Path(folder) / figure))
        feed = model.inputs[0].name
        batches = [{feed: rng.normal(size=(2, 3, 224, 224)).astype(np.float32)} for _ in range(2)]
        statistics = ADAPTER.calibrate(model, batches, seed=0)
        config = QuantizationConfig(ops=ADAPTER.space(model).preferred.ops, recipe=Recipe())
        candidate = ADAPTER.apply(model, config, statistics)
        print(figure, candidate.notes)
        runners = {FP32: ADAPTER.runner(ADAPTER.as_given(model), ONE), "int8": ADAPTER.runner(candidate, ONE)}
        for batch in options.batches:
            feeds = {feed: rng.normal(size=(batch, 3, 224, 224)).astype(np.float32)}
            speeds = race({way: call(run, feeds) for way, run in runners.items()}, options.seconds, options.seed)
            vnni = not current_host().saturates_u8s8
            rows.append({"figure": figure, "batch": batch, "vnni": vnni, "speedup": speeds["int8"]})
            print_rows(rows[-1:])
    return rows


def main() -> None:
    """Parse the command line and run."""
    options_of = parser(__doc__)
    options_of.add_argument("--seeds", action="store_true", help="the architectures of published figures too")
    options = options_of.parse_args()
    print(current_host(("paddlepaddle",)))
    result = {
        "framework": "paddle",
        "version": version("paddlepaddle"),
        "peer": "paddle.static.quantization PostTrainingQuantization",
        "target": TARGET,
        "rows": compare("paddle", enter, options),
        "seeds": published(options) if options.seeds else [],
    }
    write_result(options.json, "frameworks_paddle", options.seed, result)


if __name__ == "__main__":
    main()
