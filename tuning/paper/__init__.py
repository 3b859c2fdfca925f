"""The paper's evaluation, run again: recordings, what every setting makes of them, and what its text leaves open."""
