"""Jinja2 environment of the pages: every text is escaped, and an unknown name is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zopo_fast.errors import MissingDependencyError

if TYPE_CHECKING:
    from jinja2 import Environment


def template_environment(folder: Path, filters: Mapping[str, Callable[..., Any]]) -> Environment:
    """Return the environment of the templates in a folder.

    Raises:
        MissingDependencyError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise MissingDependencyError('needs Jinja2: pip install "zopo-fast[report]"') from None
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment
