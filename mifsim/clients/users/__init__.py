"""Honest workloads, one a file: a false-positive rate means nothing without saying whose."""
