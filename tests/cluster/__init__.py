"""Tests of jobs on Ray clusters, with real nodes on this machine, and of the files that start clusters."""
