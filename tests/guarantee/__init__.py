"""The guarantee of calibrations, tested on sessions that show other images."""
