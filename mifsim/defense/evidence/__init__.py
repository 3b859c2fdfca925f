"""The kind ``evidence``: several leaky counts over features of each query (see `mifsim.defense.evidence.config`)."""
