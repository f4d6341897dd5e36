"""Error responses of providers: parsed, sorted by whom they concern, with the wait that they state."""
