"""Static int8: where Q/DQ pairs go, the integers of weights, and the kernels that ONNX Runtime makes of both."""
