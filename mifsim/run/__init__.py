"""What simulations and calibrations share: run folders, sessions, logs, and leakage scores."""
