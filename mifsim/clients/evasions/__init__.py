"""Ways to look less like an attack, one a file (or a few of a kind); the registry is `mifsim.clients.EVASIONS`."""
