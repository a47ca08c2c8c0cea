"""ONNX models, OpenVINO IR and ``openvino.Model`` on OpenVINO's CPU plugin.

``quantize.py`` makes the candidate that a config describes: how a Convolution is quantized stands there, in
:func:`~autotune.adapters.openvino.quantize.apply_config`. Around it:

=================================== ==================================================================
``load.py``, ``prepare.py``         how a model is read, and what is folded before
``ops.py``, ``space.py``            which ops can be quantized, and what each may become on this host
``channels.py``, ``recipes.py``     what is done to channels, weights and biases so that int8 loses less
``nodes.py``, ``layers.py``         the graph as the recipes' algorithms see it
``weights.py``, ``saturation.py``   integers of weights, and which of them can saturate
``runtime.py``, ``profile.py``      what OpenVINO makes of a model when it compiles it, and what ops cost
=================================== ==================================================================
"""

from autotune.adapters.openvino.adapter import OpenVinoAdapter
from autotune.adapters.openvino.model import OpenVinoModel

__all__ = ["OpenVinoAdapter", "OpenVinoModel"]
