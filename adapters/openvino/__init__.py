"""ONNX models, OpenVINO IR and ``openvino.Model`` on OpenVINO's CPU plugin."""

from autotune.adapters.openvino.adapter import OpenVinoAdapter
from autotune.adapters.openvino.model import OpenVinoModel

__all__ = ["OpenVinoAdapter", "OpenVinoModel"]
