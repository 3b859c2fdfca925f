"""A results board: a table of what detectors stop in several runs, a page to filter and sort it, and their checks."""
