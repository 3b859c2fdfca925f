"""Attacks, one a file, each to be read against its paper."""
