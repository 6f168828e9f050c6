"""One module per kind of data set, each with a `load`; see `data_pipelines.source`."""
