"""Checkpoints and metric writers."""
