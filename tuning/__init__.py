"""Calibration of a detector with a guarantee: recording, replay, search, certification and confirmation."""
