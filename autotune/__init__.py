"""Find the fastest quantized model whose accuracy loss stays under a target, on the machine that will run it."""
