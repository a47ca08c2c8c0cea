"""The result of a run, its summary in words, and the report."""
