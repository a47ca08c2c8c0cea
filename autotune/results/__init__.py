"""What a run hands back: the result, what it came to in words, and the report."""
