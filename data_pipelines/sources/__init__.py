"""One module per kind of data set, each with a `load` function; see `data_pipelines.source`."""
