"""Draws the pictures of an evaluation: class bars, embeddings, retrieved videos."""
