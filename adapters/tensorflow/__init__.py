"""TensorFlow Lite models, and Keras models and SavedModels converted to them, on LiteRT with XNNPACK.

``quantize.py`` makes the candidate that a config describes: how a convolution is quantized stands there, in
:func:`~autotune.adapters.tensorflow.quantize.apply_config`. Around it:

======================================= ================================================================
``load.py``, ``convert.py``             how a model is read, and how Keras models and SavedModels become one
``graph.py``, ``ops.py``, ``space.py``  the file's graph, and what each of its ops may become on this host
``recipes.py``, ``layers.py``           what is done to weights and biases so that int8 loses less
``recipe_entries.py``, ``patch.py``     what ai-edge-quantizer is asked for, and what is put in its place after
``kernels.py``, ``profile.py``          which kernels LiteRT chose for a model, and what ops cost
======================================= ================================================================
"""

from autotune.adapters.tensorflow.adapter import TensorFlowAdapter
from autotune.adapters.tensorflow.model import TensorFlowModel

__all__ = ["TensorFlowAdapter", "TensorFlowModel"]
