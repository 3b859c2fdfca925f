"""Ray clusters: files that start one, and `mifsim submit`, which runs a study there. README.md says how to use them."""
