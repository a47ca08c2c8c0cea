"""``tune`` of MXNet's symbols, beside MXNet's own ``quantize_net_v2``, in speed, loss and seconds.

Run from the root of the repository, where MXNet is installed as docs/mxnet.md says:
``python benchmarks/frameworks_mxnet.py --json result.json``. Both ways get the same symbol, made of the ONNX file's
weights, and the same images; the seconds of ``tune`` include its evaluations. The result is described in
``frameworks.py``.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, at the import of MXNet

from importlib.metadata import version
from pathlib import Path

import mxnet_peer
import numpy as np
from framework_race import FP32, PEER, TARGET, Entry, compare, parser
from mxnet_models import from_onnx
from shared import Subject, write_result

from autotune.host import current_host

FEED = "data"


def enter(subject: Subject, options: argparse.Namespace, folder: Path) -> Entry:
    """The symbol of a model, and what MXNet's own tool makes of it."""
    calibration = subject.batches("calibration", options.calibration, 20)
    fp32 = from_onnx(subject.path, folder / FP32)
    images = np.concatenate([images for images, _ in calibration])
    peer, seconds = mxnet_peer.quantized(fp32, FEED, images, folder / PEER)
    evaluation = subject.batches("evaluation", options.images, 50)
    return Entry(fp32=fp32, peer=peer, seconds=seconds, calibration=calibration, evaluation=evaluation)


def main() -> None:
    """Parse the command line and run."""
    options = parser(__doc__).parse_args()
    print(current_host(("mxnet",)))
    result = {
        "framework": "mxnet",
        "version": version("mxnet"),
        "peer": mxnet_peer.NAME,
        "target": TARGET,
        "rows": compare("mxnet", enter, options),
        "seeds": [],
    }
    write_result(options.json, "frameworks_mxnet", options.seed, result)


if __name__ == "__main__":
    main()
