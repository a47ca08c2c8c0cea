"""``tune`` of a PyTorch module natively, beside torchao's PT2E quantization with ``torch.compile``.

Run from the root of the repository, with ``pip install '.[pytorch]'`` and a C++ compiler:
``python benchmarks/pytorch_native.py --json result.json``. ResNet-20 is tuned with ``framework="pytorch"``, and its
packages are timed call by call in turn with torchao's model, which lives in an environment that this script makes
(``--peer`` names the Python of one that is there already). Prints milliseconds of one picture on one thread and top-1.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared import DATA, SUBJECTS, argument_parser, existing, print_table, write_result

import autotune
from autotune.adapters import get_adapter

SUBJECT = SUBJECTS["resnet20"]
PEER = ("torchao==0.18.0", "numpy", "setuptools")


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


def peer_python(folder: Path) -> Path:
    """The Python of a new environment with torchao and the torch of this one."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    torch_version = torch.__version__.partition("+")[0]
    subprocess.run([python, "-m", "pip", "install", "-q", f"torch=={torch_version}", *PEER], check=True)
    return python


def main() -> None:
    """Tune, save, and time beside the peer."""
    parser = argument_parser(__doc__)
    parser.add_argument("--peer", type=Path, help="Python of an environment with torchao")
    parser.add_argument("--images", type=int, default=5000, help="evaluation pictures")
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing")
    parser.add_argument("--trials", type=int, default=6)
    options = parser.parse_args()
    calibration = SUBJECT.batches("calibration", 200, 50)
    evaluation = SUBJECT.batches("evaluation", options.images, 100)
    result = autotune.Tuner(framework="pytorch", max_trials=options.trials, seed=options.seed).tune(
        network(), [images for images, _ in calibration], metric="topk", eval_dataloader=evaluation
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tuned = result.save(folder / "tuned.pt2")
        adapter = get_adapter("pytorch")
        program = torch.export.export(
            network(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
        given = adapter.load(program)
        (fp32,) = adapter.save(given, folder / "fp32.pt2", {})
        np.savez(
            folder / "data.npz",
            calibration=np.concatenate([images for images, _ in calibration]),
            images=np.concatenate([images for images, _ in evaluation]),
            labels=np.concatenate([labels for _, labels in evaluation]),
        )
        peer = options.peer or peer_python(folder / "peer")
        script = Path(__file__).with_name("torchao_peer.py")
        said = subprocess.run(
            [peer, script, DATA, folder / "data.npz", str(options.seconds), tuned, fp32],
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(said.stdout.splitlines()[-1])
    names = {str(tuned): "autotune", str(fp32): "AOTInductor fp32"}
    rows = {names.get(key, key): value for key, value in found.items()}
    base = rows["torchao"]["wall_ms"]
    columns = ["model", "wall ms", "processor ms", "speed over torchao", "top-1"]
    print_table(
        columns,
        [[each, v["wall_ms"], v["processor_ms"], base / v["wall_ms"], v["top1"]] for each, v in rows.items()],
    )
    summary = {"rows": rows, "seconds": dict(result.seconds), "verdict": str(result.verdict)}
    write_result(options.json, "pytorch_native", options.seed, summary)


if __name__ == "__main__":
    main()
