"""Honest workloads, one per file: a false-positive rate is meaningful only for a stated workload."""
