"""Other tools that take the figures of a run."""
