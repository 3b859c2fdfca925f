"""Ray clusters: configuration files that start one, and `mifsim submit`, which runs a study on it. See README.md."""
