"""PyTorch: modules and exported programs, read for every runtime."""
