"""Analyzes the uncertainty of Gaussian embeddings: numbers, pictures and the command."""
