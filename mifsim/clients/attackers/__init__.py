"""Attacks, one per file; each follows the paper that its module cites."""
