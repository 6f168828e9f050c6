"""Lists videos: in folders, CSVs and official lists of splits, with their classes and splits."""
