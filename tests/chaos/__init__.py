"""Faults injected into whole runs, at random moments: the rows must be those of an undisturbed run."""
