"""Griffe extension: dataclasses of settings as they are at run time.

Their docstrings get the section Args, and their fields the defaults, from the declared settings.
"""

from __future__ import annotations

import dataclasses
import inspect
from importlib import import_module
from typing import Any

import griffe


class DeclaredSettings(griffe.Extension):
    """Reader of the docstring and the defaults that a class of settings gets when it is defined."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Replace the docstring of a decorated class, and the defaults of its fields."""
        if cls.docstring is None or not {"document"} & {str(each.value) for each in cls.decorators}:
            return
        made = getattr(import_module(cls.module.path), cls.name)
        cls.docstring.value = inspect.getdoc(made) or ""
        for field in dataclasses.fields(made):
            if field.default is not dataclasses.MISSING:
                cls.attributes[field.name].value = repr(field.default)
