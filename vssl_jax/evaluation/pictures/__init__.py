"""Pictures of an evaluation: class bars, embeddings, retrieved videos."""
