"""Functions that simulation and calibration share: run folders, sessions, logs, and leakage scores."""
