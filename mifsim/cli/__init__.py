"""The command `mifsim`: one file a subcommand."""

from mifsim.cli.command import main

__all__ = ["main"]
