"""Studies: searches by ask and tell that survive restarts."""
