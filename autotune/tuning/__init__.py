"""One run: its options, its stages from set-up to the answer, and the history that they share."""
