"""One file a method: pure functions that read like the paper."""
