"""ONNX models on ONNX Runtime's CPU execution provider."""

from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnxruntime.adapter import OnnxRuntimeAdapter

__all__ = ["OnnxModel", "OnnxRuntimeAdapter"]
