"""Evasions, one per file (or a few related ones); the registry is `mifsim.clients.EVASIONS`."""
