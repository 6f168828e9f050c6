"""What the uncertainty of Gaussian embeddings is worth: numbers, pictures, the command."""
