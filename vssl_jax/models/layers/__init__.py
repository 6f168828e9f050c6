"""Layers of the encoders: convolution, batch norm, padding, pooling, attention."""
