"""``python -m mifsim`` is the command `mifsim`."""

from mifsim.cli import main

main()
