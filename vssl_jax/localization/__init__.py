"""Temporal action localization, the task alone: annotations, proposals, scores, timelines."""
