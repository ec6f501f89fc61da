"""The composition root: command line, pipeline, and the report they end in."""
