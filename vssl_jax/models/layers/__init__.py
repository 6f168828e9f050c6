"""What encoders are built from: convolution, batch norm, padding, pooling, attention."""
