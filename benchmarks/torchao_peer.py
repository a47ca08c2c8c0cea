"""torchao's PT2E quantization with X86InductorQuantizer and ``torch.compile``, beside packages that autotune saved.

``pytorch_native.py`` runs it in an environment of its own, where autotune is not installed:
``python torchao_peer.py CHECKPOINT_FOLDER DATA.npz SECONDS PACKAGE...``. Prints JSON: by name, median milliseconds of
one call of one picture (wall and processor time, all in turn in this process), and top-1 over the pictures.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._inductor.config as inductor
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)


def quantized(module: Any, calibration: torch.Tensor) -> Any:
    """The module as torchao's documentation quantizes one for Inductor, exported for one picture."""
    program = torch.export.export(module, (calibration[:1],)).module(check_guards=False)
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(program, quantizer)
    for index in range(len(calibration)):
        prepared(calibration[index : index + 1])
    return convert_pt2e(prepared)


def in_turn(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, dict[str, float]]:
    """Median milliseconds of each, by wall and by processor time."""
    wall: dict[str, list[float]] = {name: [] for name in calls}
    processor: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(20):
            call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in calls.items():
            started, spent = time.perf_counter(), time.process_time()
            for _ in range(5):
                call()
            wall[name].append((time.perf_counter() - started) / 5)
            processor[name].append((time.process_time() - spent) / 5)
    return {
        name: {"wall_ms": 1e3 * statistics.median(wall[name]), "processor_ms": 1e3 * statistics.median(processor[name])}
        for name in calls
    }


def top1(call: Callable[[torch.Tensor], Any], images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of the pictures that are classified right, one at a time as they are timed."""
    right = 0
    for index in range(len(images)):
        output = call(images[index : index + 1])
        output = output[0] if isinstance(output, (tuple, list)) else output
        right += int(output.argmax(-1).item() == labels[index].item())
    return right / len(images)


def main() -> None:
    """Quantize, compile, and time all."""
    folder, data, seconds, packages = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
    sys.path.insert(0, str(folder))
    from resnet20_model import ResNet20  # noqa: PLC0415  # lies beside the checkpoint

    torch.set_num_threads(1)
    inductor.freezing = True
    module = ResNet20().eval().requires_grad_(False)
    module.load_state_dict(torch.load(folder / "resnet20_cifar10.pt"))
    with np.load(data) as archive:
        calibration, images, labels = (torch.from_numpy(archive[name]) for name in ("calibration", "images", "labels"))
    models: dict[str, Any] = {name: torch._inductor.aoti_load_package(name) for name in packages}
    with torch.no_grad():
        started = time.process_time()
        models["torchao"] = torch.compile(quantized(module, calibration))
        models["torchao"](images[:1])
        compiled_s = time.process_time() - started
        models["torch.compile fp32"] = torch.compile(module)
        models["eager fp32"] = module
        calls = {name: functools.partial(model, images[:1]) for name, model in models.items()}
        found: dict[str, Any] = in_turn(calls, seconds)
        for name, model in models.items():
            found[name]["top1"] = top1(model, images, labels)
    found["torchao"]["compiled_processor_s"] = compiled_s
    print(json.dumps(found))


if __name__ == "__main__":
    main()
