"""The choices of each op in ONNX Runtime on this host: which ops, which of their choices, and which options."""
