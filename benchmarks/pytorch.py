"""``tune`` on a PyTorch module against ``tune`` on the ONNX file of the same network, in one run.

Run from the root of the repository, with ``pip install '.[pytorch]'``: ``python benchmarks/pytorch.py --json
result.json``. Both are tuned on one runtime with the same data, seed and number of trials. Prints the accuracy and the
relative loss of each over all evaluation images, and how the two compare in speed: the fp32 models with each other, and
what was found with each other, interleaved, as the ratio of their medians with its 95 % interval.

With ``--strategies`` it compares strategies on the module: for each share of fp32's answers that may change, the
evaluations until a candidate keeps it, all evaluations, and what was found.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared import DATA, SUBJECTS, Batches, argument_parser, existing, print_rows, print_table, write_result
from torch.utils.data import DataLoader, TensorDataset
from tuning import loss_interval

import autotune
from autotune.adapter import Example, Execution, given_model
from autotune.adapters import get_adapter
from autotune.evaluation import LatencyComparison, LatencyOptions, compare_latency
from autotune.source import as_source, source_for

SUBJECT = SUBJECTS["resnet20"]
FILE, MODULE = "file", "module"


def network() -> Any:
    """ResNet-20 as its author would have it: the class, with the weights of the checkpoint."""
    path = existing(DATA / "resnet20_model.py")
    spec = importlib.util.spec_from_file_location("resnet20_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.ResNet20()
    made.load_state_dict(torch.load(existing(DATA / "resnet20_cifar10.pt"), map_location="cpu"))
    return made.eval()


def loader(batches: Batches) -> Any:
    """The same batches as a DataLoader of tensors."""
    images = torch.from_numpy(np.concatenate([images for images, _ in batches]))
    labels = torch.from_numpy(np.concatenate([labels for _, labels in batches]))
    return DataLoader(TensorDataset(images, labels), batch_size=len(batches[0][0]))


def tune(
    source: object, calibration: Any, evaluation: Any, options: argparse.Namespace
) -> tuple[autotune.TuningResult, float]:
    """The result and its wall seconds."""
    tuner = autotune.Tuner(
        framework=options.framework, seed=options.seed, sampling_size=options.calibration, max_trials=options.trials
    )
    started = time.perf_counter()
    result = tuner.tune(source, calibration, metric="topk", eval_dataloader=evaluation)
    return result, time.perf_counter() - started


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Tune both, and compare what comes of it."""
    calibration = SUBJECT.batches("calibration", options.calibration, batch=20)
    evaluation = SUBJECT.batches("evaluation", options.images)
    adapter, module, suffix = get_adapter(options.framework), network(), get_adapter(options.framework).suffix
    own = as_source(module)
    assert own is not None
    fp32 = {FILE: SUBJECT.path, MODULE: source_for(adapter, own, Example(own.loader(loader(calibration))))}
    found = {
        FILE: tune(SUBJECT.path, calibration, evaluation, options),
        MODULE: tune(module, loader(calibration), loader(evaluation), options),
    }
    with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
        models = {(name, "fp32"): given_model(adapter, adapter.load(source)) for name, source in fp32.items()}
        for name, (result, _) in found.items():
            models[name, "tuned"] = given_model(adapter, adapter.load(result.save(Path(folder) / f"{name}{suffix}")))
        runners = {key: adapter.runner(model, Execution(threads=1)) for key, model in models.items()}
        names = {key: model.inputs[0].name for key, model in models.items()}
        right = {
            key: np.concatenate([run({names[key]: images})[0].argmax(1) == labels for images, labels in evaluation])
            for key, run in runners.items()
        }
        feeds = evaluation[0][0][:1]
        calls = {key: partial(run, {names[key]: feeds}) for key, run in runners.items()}
        latency = LatencyOptions(interval_width=0.01, max_pairs=3000, min_pairs=200, max_seconds=30)
        ratios = {
            kind: compare_latency(calls[FILE, kind], calls[MODULE, kind], latency, seed=options.seed)
            for kind in ("fp32", "tuned")
        }
    return report(found, right, ratios)


def strategies(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Search with each strategy for the fastest model that answers like fp32, up to a share of the answers."""
    calibration = loader(SUBJECT.batches("calibration", options.calibration, batch=20))
    evaluation = [images for images, _ in SUBJECT.batches("evaluation", options.images)]
    rows = []
    for target in options.targets:
        for name in options.strategies:
            tuner = autotune.Tuner(
                framework=options.framework,
                strategy=name,
                criterion=autotune.Criterion(relative=target),
                seed=options.seed,
                sampling_size=options.calibration,
                max_trials=options.trials,
            )
            started = time.perf_counter()
            result = tuner.tune(network(), calibration, metric="agreement", eval_dataloader=evaluation)
            rows.append(
                {
                    "may lose": f"{target:.2%}",
                    "strategy": name,
                    **searched(result),
                    "wall s": time.perf_counter() - started,
                }
            )
    print_rows(rows)
    return rows


def searched(result: autotune.TuningResult) -> dict[str, Any]:
    """Evaluations to target, all of them, and speed and loss of the answer."""
    evaluated = [trial for trial in result.history[1:] if trial.measurement is not None and trial.loss is not None]
    met = [place for place, trial in enumerate(evaluated, 1) if trial.met]
    best = result.best.measurement
    assert best is not None
    return {
        "evaluations to target": met[0] if met else f"> {len(evaluated)}",
        "evaluations": len(evaluated),
        "speedup": best.speedup,
        "loss": f"{best.loss or 0.0:.2%}",
        "ops in fp32": sum(result.best.config[name].precision == "fp32" for name in result.op_types),
    }


def report(
    found: Mapping[str, tuple[autotune.TuningResult, float]],
    right: Mapping[tuple[str, str], Any],
    ratios: Mapping[str, LatencyComparison],
) -> dict[str, Any]:
    """Print the tables, and give their figures."""
    rows: list[list[object]] = []
    models: dict[str, Any] = {}
    for name, (result, seconds) in found.items():
        loss, half, accuracy = loss_interval(right[name, "fp32"], right[name, "tuned"])
        measured = result.best.measurement
        assert measured is not None
        speed, trials = measured.speedup or 1.0, len(result.history) - 1
        rows.append([name, f"{accuracy:.2%}", f"{loss:+.2%} ± {half:.2%}", f"{speed:.2f}x", trials, f"{seconds:.1f}"])
        models[name] = {
            "accuracy": accuracy,
            "relative_loss": loss,
            "speedup": speed,
            "trials": trials,
            "wall_s": seconds,
        }
    same = float((right[FILE, "fp32"] == right[MODULE, "fp32"]).mean())
    print_table(["tuned from", "top-1", "relative loss", "speed over fp32", "trials", "wall s"], rows)
    print(f"\nfp32 of file and module agree on {same:.2%} of the answers")
    rows = [
        [kind, f"{each.speedup:.3f}", f"{each.interval.low:.3f} to {each.interval.high:.3f}"]
        for kind, each in ratios.items()
    ]
    print_table(["", "speed of the module's over the file's", "95 % interval"], rows)
    speeds = {kind: [each.speedup, each.interval.low, each.interval.high] for kind, each in ratios.items()}
    return {"models": models, "module_over_file": speeds}


def main() -> None:
    """Parse the command line and run."""
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--calibration", type=int, default=100)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--framework", choices=["onnxruntime", "openvino"], default="onnxruntime")
    parser.add_argument("--strategies", nargs="*", default=[], metavar="NAME", help="compare these on the module")
    parser.add_argument("--targets", nargs="*", type=float, default=[0.01, 0.005, 0.0025])
    options = parser.parse_args()
    result = {"strategies": strategies(options)} if options.strategies else compare(options)
    write_result(options.json, "pytorch", options.seed, result)


if __name__ == "__main__":
    main()
