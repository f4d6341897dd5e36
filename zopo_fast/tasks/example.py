"""Example: an input with its accepted outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zopo_fast._utils.public import public
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import InputError


@public
@dataclass(frozen=True)
class Example:
    """Input with its accepted outputs; demonstrations show the first output.

    Args:
        input: its text.
        outputs: accepted outputs.
        columns: further texts for the placeholders of a template, as pairs of name and text, or a mapping.

    Raises:
        InputError: no output, or an input, output or column that is not a text.
    """

    input: str
    outputs: tuple[str, ...]
    columns: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        # tuple("42") would accept each character of the text.
        outputs = (self.outputs,) if isinstance(self.outputs, str) else tuple(self.outputs)
        if not outputs:
            raise InputError(f"an example needs at least one accepted output: {short_repr(self.input)}")
        columns = self.columns.items() if isinstance(self.columns, Mapping) else self.columns
        pairs = tuple((name, text) for name, text in columns)
        for text in (self.input, *outputs, *(text for pair in pairs for text in pair)):
            if not isinstance(text, str):
                raise InputError(f"an example: expected texts, got {short_repr(text)}")
        object.__setattr__(self, "outputs", outputs)
        object.__setattr__(self, "columns", pairs)

    def to_dict(self) -> dict[str, Any]:
        """Return the example as JSON values; without columns as before there were any."""
        values = asdict(self)
        if not self.columns:
            del values["columns"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Example:
        """Return the example of `to_dict`."""
        columns = tuple((name, text) for name, text in values.get("columns", ()))
        return cls(values["input"], tuple(values["outputs"]), columns)
