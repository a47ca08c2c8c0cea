"""Candidates in a worker process, so that what crashes or hangs is one failed trial."""
