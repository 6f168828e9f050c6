"""A trained encoder: loaded, called, written as files and as programs that run without it."""
