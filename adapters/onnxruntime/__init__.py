"""ONNX models on ONNX Runtime's CPU execution provider."""

from autotune.adapters.onnxruntime.adapter import OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.model import OnnxModel

__all__ = ["OnnxModel", "OnnxRuntimeAdapter"]
