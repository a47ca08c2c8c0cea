"""Ops in float16 and bfloat16, and which of them this build of ONNX Runtime computes in these types."""
