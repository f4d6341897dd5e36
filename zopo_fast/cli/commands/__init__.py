"""Commands of `zopo-fast`, one a module."""
