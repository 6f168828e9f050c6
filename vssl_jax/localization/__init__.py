"""Temporal action localization, for any method: annotations, proposals, scores, timelines."""
