"""What stands between clients and the model: sessions, the shared model, and where they run."""
