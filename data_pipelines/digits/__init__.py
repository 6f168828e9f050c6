"""The built-in data set: videos of handwritten digits, made in seconds without a download."""
