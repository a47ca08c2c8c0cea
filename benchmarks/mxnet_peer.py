"""Quantizes a symbol with MXNet's own post-training tool; a part of ``frameworks_mxnet.py``."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

from autotune.adapters.mxnet.framework import dense, mx

NAME = "mxnet.contrib.quantization.quantize_net_v2, smart, channel-wise, naive calibration"


def quantized(source: Path, feed: str, images: Any, prefix: Path) -> tuple[Path, float]:
    """The model that ``quantize_net_v2`` makes at the settings that MXNet's guide to oneDNN gives.

    Weights have a scale for each channel, which is not the tool's default but loses less.

    Args:
        source: The ``-symbol.json`` file of the fp32 model, with its ``-0000.params`` beside it.
        feed: Name of the model's input.
        images: Calibration images, shape (count, 3, size, size).
        prefix: Path of the quantized model's two files without their endings.

    Returns:
        Path of the quantized symbol, and the wall seconds that the tool took.
    """
    parameters = source.with_name(source.name.removesuffix("-symbol.json") + "-0000.params")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MXNet's own, of its deprecated names
        block = mx.gluon.SymbolBlock.imports(str(source), [feed], str(parameters), ctx=mx.cpu())
        data = mx.io.NDArrayIter(data={feed: images}, batch_size=20)
        began = time.perf_counter()
        made = mx.contrib.quantization.quantize_net_v2(
            block,
            quantized_dtype="auto",
            quantize_mode="smart",
            quantize_granularity="channel-wise",
            calib_data=data,
            calib_mode="naive",
            ctx=mx.cpu(),
        )
        seconds = time.perf_counter() - began
        made(dense(images[:1])).wait_to_read()  # before a first call, `export` writes no parameters
        made.export(str(prefix), epoch=0)
    return prefix.with_name(f"{prefix.name}-symbol.json"), seconds
