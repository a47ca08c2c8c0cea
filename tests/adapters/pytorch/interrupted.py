"""A run on a module that kills its own process at a given point; started anew by its test.

Arguments: the runtime, the workspace, a file that each evaluation is written to, and where to die: ``evaluation:2`` in
the middle of the second evaluation, ``compilation:2`` in the middle of the second one, ``training:2`` after the second
step of :func:`train`, ``never``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch.utils.data import DataLoader

import autotune


class Layers(nn.Module):
    """Two linear layers, which Inductor compiles in the shortest time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(64, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(x)))


def die() -> NoReturn:
    """End this process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a killed process does not go on")


def die_while_compiling(number: int) -> None:
    """Let the compilation of this number, from one, write the half of a file and die."""
    compile_it, counted = torch._inductor.aoti_compile_and_package, iter(range(1, number + 1))

    def interrupted(*arguments: Any, package_path: str, **options: Any) -> Any:
        if next(counted) < number:
            return compile_it(*arguments, package_path=package_path, **options)
        Path(package_path).write_bytes(b"PK\x03\x04 and no more")
        die()

    torch._inductor.aoti_compile_and_package = interrupted


def train(model: nn.Module, checkpoint: Path, last: int | None) -> None:
    """Four steps, each kept in a checkpoint, from the one that an earlier process came to.

    Args:
        model: Trained in place.
        checkpoint: Its file.
        last: The step after which the process dies.
    """
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    done = 0
    if checkpoint.exists():
        kept = torch.load(checkpoint)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        done = kept["step"]
    samples = torch.randn((64, 64), generator=torch.Generator().manual_seed(2))
    wanted = Layers().eval()(samples).detach()
    for step in range(done + 1, 5):
        loss = (model(samples) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, checkpoint)
        with checkpoint.with_suffix(".steps").open("a") as file:
            file.write(f"{step}\n")
        if step == last:
            die()


def tune_and_train(folder: Path, where: str = "never") -> autotune.TuningResult:
    """Tune with a target that no rounding keeps, so that the only candidate is trained in ``folder``."""
    last = int(where.partition(":")[2]) if where.startswith("training") else None
    module = Layers().eval()
    samples = torch.randn((64, 64), generator=torch.Generator().manual_seed(1))
    wanted = module(samples).detach()

    def score(model: Any) -> float:
        return 1.0 - float((model(samples) - wanted).square().mean())

    return autotune.Tuner(
        criterion=autotune.Criterion(relative=1e-9),
        strategy="basic",
        objective="size",
        max_trials=1,
        latency_max_s=0.05,
        warmup=1,
        workspace=str(folder / "work"),
        train_fn=lambda model: train(model, folder / "checkpoint.pt", last),
    ).tune(module, DataLoader(samples, batch_size=16), score)


def tune(runtime: str, workspace: str, log: str, where: str = "never", **options: Any) -> autotune.TuningResult:
    """Tune the layers; the arguments are those of the command line, and options of the tuner."""
    point, _, number = where.partition(":")
    if point == "compilation":
        die_while_compiling(int(number))
    module = Layers().eval()
    samples = torch.randn((64, 64), generator=torch.Generator().manual_seed(1))
    labels = module(samples).argmax(1)
    evaluations = 0

    def score(model: Any) -> float:
        nonlocal evaluations
        evaluations += 1
        right = (model(samples).argmax(1) == labels).float()
        if where == f"evaluation:{evaluations}":
            die()
        with Path(log).open("a") as file:
            file.write(f"{right.mean():.4f}\n")
        return float(right.mean())

    given: dict[str, Any] = {
        "strategy": "random",
        "objective": "size",
        "max_trials": 2,
        "latency_max_s": 0.05,
        **options,
    }
    tuner = autotune.Tuner(
        framework=runtime, criterion=autotune.Criterion(relative=0.5), warmup=1, workspace=workspace, **given
    )
    return tuner.tune(module, DataLoader(samples, batch_size=16), score)


def told(result: autotune.TuningResult) -> dict[str, Any]:
    """The findings that two runs must agree on."""
    return {
        "verdict": str(result.verdict),
        "best": result.best.config.to_json(),
        "trials": [trial.config.to_json() for trial in result.history if trial.measurement is not None],
    }


def main() -> None:
    """Run what the command line says, and print what was found as one line of JSON."""
    if sys.argv[4].startswith("training"):
        tune_and_train(Path(sys.argv[2]), sys.argv[4])
    else:
        sys.stdout.write(f"{json.dumps(told(tune(*sys.argv[1:])))}\n")
