"""Jobs: runs of `optimize` on the server."""
