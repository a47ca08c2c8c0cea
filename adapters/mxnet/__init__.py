"""MXNet: symbols and Gluon blocks, quantized op by op for oneDNN's integer kernels."""
