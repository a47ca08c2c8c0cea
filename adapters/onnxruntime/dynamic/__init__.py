"""Dynamic int8: what an op reads is quantized in every call."""
