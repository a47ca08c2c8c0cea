"""Accuracy of a candidate against the fp32 baseline: metrics, intervals, and when enough samples were seen."""
