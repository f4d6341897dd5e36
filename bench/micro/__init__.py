"""One question a file; `zopo-fast bench` runs them."""
