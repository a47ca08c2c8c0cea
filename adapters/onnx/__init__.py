"""ONNX models, whatever runtime quantizes them: read, prepared and compared; ONNX Runtime folds and runs them."""
