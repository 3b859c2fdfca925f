"""The simulated server: client sessions, the shared model, and the backends that run them."""
