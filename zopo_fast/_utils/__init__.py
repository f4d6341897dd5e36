"""Helpers that depend on no domain of the package: files, text, asyncio, forks, locks."""
