"""Fault injection into whole runs at random moments: the rows must equal those of a run without faults."""
