"""Loads data on the host; only this package imports TensorFlow, and only when a source needs it."""
