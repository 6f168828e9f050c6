"""Converts videos to records: the command `python -m data_pipelines.prepare`."""
