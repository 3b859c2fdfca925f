"""Run the command line as ``python -m mifsim``."""

from mifsim.cli import main

main()
