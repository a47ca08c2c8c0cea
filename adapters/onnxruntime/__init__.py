"""ONNX models on ONNX Runtime's CPU execution provider.

``apply.py`` makes the candidate that a config describes, in the order of these parts:

================== ===================================================================================
``choices/``       which ops can be quantized, and what each may become on this host
``recipes/``       what is done to channels, weights and biases so that int8 loses less
``static/``        static int8: a Conv between Q/DQ pairs, its integer weights, the kernel that is fused
``dynamic/``       dynamic int8: an op whose input is quantized in every call
``weight_only.py`` weights in 4 or 8 bits, computed in fp32
``half/``          float16 and bfloat16
``measure/``       what single ops cost, and whether half precision is faster on this host
================== ===================================================================================

How a model is read and prepared before is in :mod:`autotune.adapters.onnx`.
"""

from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnxruntime.adapter import OnnxRuntimeAdapter

__all__ = ["OnnxModel", "OnnxRuntimeAdapter"]
