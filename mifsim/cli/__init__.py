"""The command line `mifsim`, with a module for each group of subcommands."""

from mifsim.cli.command import main

__all__ = ["main"]
