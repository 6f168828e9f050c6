"""Where in time actions happen: annotations, proposals, suppression, detection scores."""
