"""Quantizes a program with Paddle's own post-training tool; a part of ``frameworks_paddle.py``, which runs it.

Arguments: the folder and the name of the program, a file of calibration images, and the target's prefix. Prints the
seconds that it took.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

os.environ["FLAGS_enable_pir_api"] = "0"  # noqa: SIM112  # Paddle's own spelling

import numpy as np
import paddle
from paddle.static.quantization import PostTrainingQuantization


def main() -> None:
    """Quantize, save, and print how long that took."""
    folder, name, data, target = sys.argv[1:]
    paddle.set_device("cpu")
    paddle.enable_static()
    images = np.load(data)
    started = time.perf_counter()
    executor = paddle.static.Executor(paddle.CPUPlace())
    feed = sys.argv[2].removesuffix(".pdmodel")
    _, feeds, _ = paddle.static.load_inference_model(str(Path(folder) / feed), executor)
    tool = PostTrainingQuantization(
        executor=executor,
        model_dir=folder,
        model_filename=name,
        params_filename=f"{feed}.pdiparams",
        data_loader=lambda: ({feeds[0]: batch} for batch in np.array_split(images, max(1, len(images) // 20))),
        batch_nums=max(1, len(images) // 20),
        algo="hist",
        quantizable_op_type=["conv2d", "depthwise_conv2d", "mul"],
        activation_quantize_type="moving_average_abs_max",
        weight_quantize_type="channel_wise_abs_max",
        onnx_format=True,
        is_full_quantize=True,
    )
    tool.quantize()
    tool.save_quantized_model(
        str(Path(target).parent), model_filename=f"{Path(target).name}.pdmodel",
        params_filename=f"{Path(target).name}.pdiparams",
    )  # fmt: skip
    print(f"seconds {time.perf_counter() - started}")


if __name__ == "__main__":
    main()
