"""Programs of PaddlePaddle and ``paddle.nn.Layer`` on Paddle Inference, whose integers are oneDNN's.

``quantize.py`` makes the candidate that a config describes: how a convolution is quantized stands there, in
:func:`~autotune.adapters.paddle.quantize.apply_config`. Around it:

=========================================== ============================================================
``load.py``, ``layer.py``, ``prepare.py``   how a model is read, and what is folded before
``program.py``, ``parameters.py``           programs and arrays as the files hold them
``ops.py``, ``tensors.py``, ``space.py``    which ops can be quantized, and what each may become here
``scales.py``, ``weights.py``               integers of tensors and weights
``channels.py``, ``recipes.py``             what is done to channels, weights and biases so that int8 loses less
``nodes.py``, ``layers.py``                 the program as the recipes' algorithms see it
``runtime.py``, ``profile.py``              which kernels ran, and what ops cost
=========================================== ============================================================
"""
