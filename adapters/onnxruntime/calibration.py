"""One pass of the fp32 model over calibration data, with its inner tensors exposed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from autotune.calibration import CalibrationStatistics, StatisticsCollector
from autotune.errors import DataError


def calibrate(
    model_proto: onnx.ModelProto,
    tensors: Sequence[str],
    channel_axes: Mapping[str, int],
    batches: Iterable[Mapping[str, np.ndarray[Any, Any]]],
    seed: int,
    external_dir: Path | None = None,
) -> CalibrationStatistics:
    """Gather the statistics of tensors from one run per batch."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model_proto)
    inputs = {value.name for value in exposed.graph.input}
    present = {value.name for value in exposed.graph.output}
    inner = [name for name in dict.fromkeys(tensors) if name not in inputs]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner if name not in present)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    collector = StatisticsCollector(channel_axes, seed)
    samples = 0
    for feeds in batches:
        for name in tensors:
            if name in feeds and feeds[name].dtype.kind == "f":
                collector.update(name, feeds[name])
        for name, value in zip(inner, session.run(inner, dict(feeds)), strict=True):
            if value.dtype.kind == "f":
                collector.update(name, value)
        samples += 1
    if samples == 0:
        raise DataError("Calibration needs at least one batch, but there was none")
    return collector.finish(samples)
