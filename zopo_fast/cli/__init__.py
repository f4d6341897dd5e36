"""Command line: `zopo-fast`."""

from zopo_fast.cli.group import cli, main

__all__ = ["cli", "main"]
