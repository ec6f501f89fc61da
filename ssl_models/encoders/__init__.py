"""Networks that map images to features, one family per file."""
