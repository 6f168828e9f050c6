"""Makes clips from records: chooses their starts, cuts and batches them, the same on any host."""
