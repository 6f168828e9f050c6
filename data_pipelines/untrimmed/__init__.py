"""Feature sequences of untrimmed videos: read from files, simulated, or stitched together."""
