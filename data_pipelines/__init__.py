"""Records to clips on the host; the only package that imports TensorFlow, and only where used."""
