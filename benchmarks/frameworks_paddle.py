"""``tune`` of Paddle programs, beside ``paddle.static.quantization``, in speed, loss and seconds.

Run from the root of the repository, with ``pip install '.[paddle,images]'``:
``python benchmarks/frameworks_paddle.py --json result.json``. ResNet-20 and MobileNetV2 are made Paddle programs of the
same ops, tuned with ``framework="paddle"`` on one thread at batch 1 and 16, and raced in one process, call by call in
turn: fp32, the tuned model, and that of Paddle's post-training tool. ``--seeds`` measures the architectures of
published figures instead: ResNet-50 and MobileNet-V1 with all convolutions in int8 over fp32.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from paddle_models import from_onnx, mobilenet_v1, resnet50, saved
from shared import SUBJECTS, argument_parser, print_rows, write_result

import autotune
from autotune.adapter import Execution
from autotune.adapters.paddle.adapter import PaddleAdapter
from autotune.adapters.paddle.load import read_model
from autotune.config import QuantizationConfig, Recipe
from autotune.host import current_host

ADAPTER = PaddleAdapter()
ONE = Execution(threads=1)
PUBLISHED = {"resnet50": (resnet50, "2.79 (b=1) and 3.56"), "mobilenet_v1": (mobilenet_v1, "2.2")}


def race(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """By name: the speed over the first one, a median of ratios of calls in turn."""
    for call in calls.values():
        for _ in range(5):
            call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - started)
    base = np.array(next(iter(taken.values())))
    return {name: float(np.median(base / np.array(each))) for name, each in taken.items()}


def call(runner: Any, feeds: Mapping[str, Any]) -> Callable[[], object]:
    """One inference, to be timed."""
    return lambda: runner(feeds)


def peer(program: Path, images: Any, target: Path) -> float:
    """Seconds that Paddle's own tool took to quantize a program."""
    data = target.with_suffix(".npy")
    np.save(data, images)
    script = Path(__file__).with_name("paddle_peer.py")
    said = subprocess.run(
        [sys.executable, script, program.parent, program.name, data, target], capture_output=True, text=True, check=True
    )
    return float(next(line for line in said.stdout.splitlines() if line.startswith("seconds ")).split()[1])


def top1(runner: Any, name: str, evaluation: Any) -> float:
    """Share of the pictures that a model gets right, in percent."""
    return 100 * float(np.mean(np.concatenate([runner({name: x})[0].argmax(1) == y for x, y in evaluation])))


def measured(name: str, options: Any, folder: Path) -> list[dict[str, object]]:
    """The rows of one model."""
    subject = SUBJECTS[name]
    calibration = subject.images("calibration", 200)[0]
    evaluation = subject.batches("evaluation", options.images, 100)
    program = from_onnx(subject.path, folder / f"{name}.pdmodel")
    peer_seconds = peer(program, calibration, folder / f"{name}_peer")
    given, other = (read_model(each, None) for each in (program, folder / f"{name}_peer.pdmodel"))
    feed = given.inputs[0].name
    runners = {"fp32": ADAPTER.runner(given, ONE), "paddle.static.quantization": ADAPTER.runner(other, ONE)}
    rows: list[dict[str, object]] = []
    scores = {key: top1(runner, feed, evaluation) for key, runner in runners.items()}
    for batch in options.batches:
        tuner = autotune.Tuner(framework="paddle", batch_size=batch, threads=1, seed=options.seed)
        loader = [calibration[place : place + 20] for place in range(0, len(calibration), 20)]
        started = time.perf_counter()
        result = tuner.tune(program, loader, metric="topk", eval_dataloader=evaluation)
        seconds = time.perf_counter() - started
        tuned = result.save(folder / f"{name}_{batch}.pdmodel")
        mine = ADAPTER.runner(read_model(tuned, None), ONE)
        feeds = {feed: np.ascontiguousarray(calibration[:batch])}
        speeds = race({key: call(run, feeds) for key, run in {**runners, "autotune": mine}.items()}, 15.0)
        found = {**scores, "autotune": top1(mine, feed, evaluation)}
        took = {"autotune": seconds, "paddle.static.quantization": peer_seconds}
        for key in ("fp32", "paddle.static.quantization", "autotune"):
            loss = 100 * (1 - found[key] / found["fp32"])
            row = {"model": name, "batch": batch, "by": key, "speed over fp32": speeds[key], "top-1": found[key]}
            rows.append({**row, "loss %": loss, "seconds": took.get(key, "")})
        rows[-1]["evaluating and racing"] = result.seconds["evaluate"] + result.seconds.get("finalists", 0.0)
        rows[-1]["verdict"] = str(result.verdict)
        print_rows(rows[-3:])
    return rows


def published(options: Any, folder: Path) -> list[dict[str, object]]:
    """The speed of all convolutions in int8, of the architectures that published figures are of."""
    rows: list[dict[str, object]] = []
    rng = np.random.default_rng(options.seed)
    for name, (made, figure) in PUBLISHED.items():
        model = ADAPTER.load(saved(made(), folder / name))
        feed = model.inputs[0].name
        batches = [{feed: rng.normal(size=(2, 3, 224, 224)).astype(np.float32)} for _ in range(2)]
        statistics = ADAPTER.calibrate(model, batches, seed=0)
        config = QuantizationConfig(ops=ADAPTER.space(model).preferred.ops, recipe=Recipe())
        candidate = ADAPTER.apply(model, config, statistics)
        print(name, candidate.notes)
        runners = {"fp32": ADAPTER.runner(ADAPTER.as_given(model), ONE), "int8": ADAPTER.runner(candidate, ONE)}
        for batch in options.batches:
            feeds = {feed: rng.normal(size=(batch, 3, 224, 224)).astype(np.float32)}
            speeds = race({key: call(run, feeds) for key, run in runners.items()}, 20.0)
            rows.append({"model": name, "batch": batch, "int8 over fp32": speeds["int8"], "published": figure})
            print_rows(rows[-1:])
    return rows


def main() -> None:
    """Measure, print, and write what was found."""
    parser = argument_parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=sorted(SUBJECTS), default=["resnet20", "mobilenetv2"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--images", type=int, default=5000, help="evaluation pictures")
    parser.add_argument("--seeds", action="store_true", help="the architectures of published figures instead")
    options = parser.parse_args()
    print(current_host(("paddlepaddle",)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.seeds:
            rows = published(options, folder)
        else:
            rows = [row for each in options.models for row in measured(each, options, folder)]
    print_rows(rows)
    write_result(options.json, "frameworks_paddle", options.seed, {"rows": rows})


if __name__ == "__main__":
    main()
