"""Quantization-aware training: a module on a runtime's grids, and the user's module with what was trained."""
