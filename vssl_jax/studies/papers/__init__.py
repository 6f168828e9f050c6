"""The papers' figures and tables as studies, one file per method."""
