"""The reproduction of the paper's evaluation: recordings, replays of every configuration, a sweep of open choices."""
