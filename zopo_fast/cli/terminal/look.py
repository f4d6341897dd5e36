"""Width and colours of the terminal that stdout writes to."""

from __future__ import annotations

import os
import shutil
import sys
from typing import NamedTuple

COLUMNS = 80
"""Width of text for pipes and files, and the widest on a terminal: longer lines are hard to read."""
_MIN_COLUMNS = 40


class Look(NamedTuple):
    """Columns of a line, and True where text may be styled."""

    columns: int
    has_color: bool


def terminal_look() -> Look:
    """Return the look of text on stdout: 80 plain columns for a pipe.

    Styles need a terminal that is not "dumb", and the variable NO_COLOR unset or empty (https://no-color.org).
    """
    if not sys.stdout.isatty():
        return Look(COLUMNS, has_color=False)
    columns = max(_MIN_COLUMNS, min(COLUMNS, shutil.get_terminal_size().columns))
    return Look(columns, has_color=not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")
