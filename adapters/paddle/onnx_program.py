"""Makes ONNX of Paddle's programs with paddle2onnx, in its environment; see ``autotune.conversion.program``.

``POLYGRAPHY_AUTOINSTALL_DEPS=0`` and ``optimize_tool="None"`` keep it from calling pip.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["POLYGRAPHY_AUTOINSTALL_DEPS"] = "0"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of compilers that no inference needs
    import paddle2onnx
    from paddle import inference
    from paddle2onnx import convert

_OPSET = 17


def load(request: Mapping[str, str]) -> Program:
    """The program of two files."""
    return Program(Path(request["program"]), Path(request["parameters"]))


class Program:
    """A program and its parameters."""

    def __init__(self, program: Path, parameters: Path) -> None:
        self._program, self._parameters = program, parameters
        config = inference.Config(str(program), str(parameters))
        config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(1)
        self._predictor = inference.create_predictor(config)
        self.inputs = self._predictor.get_input_names()
        self.outputs = self._predictor.get_output_names()

    def export(self, path: Path, feeds: Mapping[str, Any] | None) -> list[str]:
        """Write the ONNX file."""
        del feeds
        said: list[str] = []
        # It logs why it failed and then fails for want of a variable.
        convert.logging.error = lambda message, *_: said.append(str(message))
        try:
            paddle2onnx.export(
                str(self._program),
                str(self._parameters),
                str(path),
                opset_version=_OPSET,
                enable_onnx_checker=True,
                optimize_tool="None",
            )
        except Exception as error:
            raise ValueError(next((each for each in said if each != "None"), str(error))) from error
        return []

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs of Paddle Inference."""
        for name, array in feeds.items():
            handle = self._predictor.get_input_handle(name)
            handle.reshape(array.shape)
            handle.copy_from_cpu(array)
        self._predictor.run()
        return [self._predictor.get_output_handle(name).copy_to_cpu() for name in self.outputs]
