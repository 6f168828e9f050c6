"""Clips out of records: where they start, how they are cut and batched, the same for any host."""
