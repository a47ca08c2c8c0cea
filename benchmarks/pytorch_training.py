"""Quantization-aware training on ResNet-20, of a config that was chosen to lose much, in one run.

Run from the root of the repository, with ``pip install '.[pytorch]'``: ``python benchmarks/pytorch_training.py --json
result.json``. The channels between the two convolutions of each block are spread, which changes nothing in fp32, and
all convolutions are int8 with one scale for the whole weight. Prints the relative loss over all evaluation images of
that config without training, and of the same config once ``train_fn`` has had 1,000 images; the share of the loss that
training recovers, the speedups, and the seconds that training took.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from typing import Any

import numpy as np
import torch
from shared import DATA, SUBJECTS, argument_parser, existing, print_table, write_result
from torch.nn import functional

import autotune
from autotune.config import Granularity, Precision
from autotune.restriction import OpRestriction, SchemeRestriction, SpaceRestriction

SUBJECT = SUBJECTS["resnet20"]
RESTRICTION = SpaceRestriction(
    op_type={
        "Conv": OpRestriction(
            precision=(Precision.INT8,), weight=SchemeRestriction(granularity=(Granularity.parse("per_tensor"),))
        )
    },
    recipe={"equalization": (False,), "bias_correction": ("none",)},
)
"""Per-tensor weights, without the recipes that would mend them."""


def network() -> Any:
    """ResNet-20 with the weights of the checkpoint."""
    spec = importlib.util.spec_from_file_location("resnet20_model", existing(DATA / "resnet20_model.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.ResNet20()
    made.load_state_dict(torch.load(existing(DATA / "resnet20_cifar10.pt"), map_location="cpu"))
    return made.eval()


def spread_channels(network: Any, deviation: float, seed: int) -> None:
    """Multiply channels inside of each block by factors that the next convolution takes back.

    Args:
        network: Changed in place; computes the same in fp32.
        deviation: Standard deviation of the factors' logarithms.
        seed: Seed of the factors.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in network.blocks:
            factors = torch.exp(deviation * torch.randn(block.bn1.weight.shape, generator=random))
            block.bn1.weight *= factors
            block.bn1.bias *= factors
            block.conv2.weight /= factors[None, :, None, None]


class Training:
    """A ``train_fn``: Adam on random batches, some of them mirrored, towards the outputs of the fp32 module.

    The module has seen these images in its own training, and tells more about each than its label does.

    Args:
        images: Training images.
        teacher: The fp32 module.
        options: Number of steps, size of a batch, learning rate and seed.
    """

    def __init__(self, images: Any, teacher: Any, options: argparse.Namespace) -> None:
        self._images = torch.from_numpy(images)
        self._teacher = teacher
        self._options = options
        self.seconds: list[float] = []

    def __call__(self, model: Any) -> None:
        """Train in place."""
        options, started = self._options, time.perf_counter()
        random = torch.Generator().manual_seed(options.seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=options.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
        for step in range(options.steps):
            chosen = torch.randperm(len(self._images), generator=random)[: options.batch]
            images = self._images[chosen]
            if step % 2:
                images = images.flip(-1)
            with torch.no_grad():
                wanted = self._teacher(images).softmax(1)
            loss = functional.cross_entropy(model(images), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        self.seconds.append(time.perf_counter() - started)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one run."""
    torch.set_num_threads(options.threads)
    module = network()
    spread_channels(module, options.spread, options.seed)
    images, _ = SUBJECT.images("calibration", options.training)
    evaluation = SUBJECT.batches("evaluation", options.images)
    train = Training(images, module, options)
    tuner = autotune.Tuner(
        strategy="basic",
        max_trials=1,
        early_stopping=False,
        holdout=0.0,
        framework=options.framework,
        restriction=RESTRICTION,
        train_fn=train,
        seed=options.seed,
    )
    started = time.perf_counter()
    result = tuner.tune(
        module, [images[start : start + 50] for start in (0, 50)], metric="topk", eval_dataloader=evaluation
    )
    trained = [trial for trial in result.history if trial.config.trained]
    before = min((t for t in result.history[1:] if not t.config.trained and t.loss is not None), key=_loss)
    after = min((trial for trial in trained if trial.loss is not None), key=_loss)
    return {
        "fp32": _figures(result.baseline),
        "post-training": _figures(before),
        "trained": _figures(after),
        "recovered": 1.0 - _loss(after) / _loss(before),
        "training_s": train.seconds,
        "run_s": time.perf_counter() - started,
        "answer": result.best.number,
        "verdict": str(result.verdict),
    }


def _loss(trial: Any) -> float:
    return float(trial.loss)


def _figures(trial: Any) -> dict[str, Any]:
    measured = trial.measurement
    interval = measured.loss_interval
    return {
        "accuracy": measured.accuracy,
        "loss": measured.loss,
        "loss_interval": None if interval is None else [interval.low, interval.high],
        "speedup": measured.speedup,
    }


def main() -> None:
    """Entry point."""
    parser = argument_parser(__doc__)
    parser.add_argument("--framework", default="onnxruntime")
    parser.add_argument("--images", type=int, default=5000, help="evaluation images")
    parser.add_argument("--training", type=int, default=1000, help="training images")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate")
    parser.add_argument("--spread", type=float, default=1.0, help="deviation of the logarithm of the channels' factors")
    parser.add_argument("--threads", type=int, default=1, help="of training")
    options = parser.parse_args()
    result = measure(options)
    rows = [
        (name, figures["accuracy"], figures["loss"], figures["speedup"] or float(np.nan))
        for name, figures in result.items()
        if isinstance(figures, dict)
    ]
    print_table(("model", "accuracy", "relative loss", "speedup"), rows)
    seconds = ", ".join(f"{each:.0f} s" for each in result["training_s"])
    print(
        f"\nTraining took {seconds} and recovered {result['recovered']:.0%} of the loss; the run took "
        f"{result['run_s']:.0f} s"
    )
    write_result(options.json, "pytorch_training", options.seed, result)


if __name__ == "__main__":
    main()
