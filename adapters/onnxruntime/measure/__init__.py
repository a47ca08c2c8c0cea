"""Measurements before anything is quantized: the time of single ops, and of half precision on this host."""
