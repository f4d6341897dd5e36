"""Lists of the parts of composed prompts: role, instruction and output format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zopo_fast._utils.files import MAX_SETTINGS_BYTES, UnreadableFileError, read_bytes
from zopo_fast._utils.text import parse_json, short_repr
from zopo_fast.errors import ConfigError
from zopo_fast.prompts.pool import normalise

COMPOSE_FILE = Path(__file__).parents[1] / "compose.toml"
PARTS = ("roles", "instructions", "formats")


def read_parts(lists: Mapping[str, Sequence[str]] | str | Path | None, kind: str) -> list[list[str]]:
    """Return the lists of roles, instructions and formats, each normalised and without duplicates.

    Args:
        lists: the parts, or a TOML or JSON file with them; None: COMPOSE_FILE.
        kind: table of the file.

    Raises:
        ConfigError: the file or the parts are missing or malformed.
    """
    source = "lists" if isinstance(lists, Mapping) else str(lists or COMPOSE_FILE.name)
    table = lists if isinstance(lists, Mapping) else _table(Path(lists or COMPOSE_FILE), kind)
    if unknown := [key for key in table if key not in PARTS]:
        raise ConfigError(f"{source}: unknown key {short_repr(unknown[0])}; the keys are {', '.join(PARTS)}")
    parts = []
    for name in PARTS:
        values = table.get(name, [""])
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ConfigError(f"{source}: {name} must be a list of strings")
        if not values or not all(isinstance(value, str) for value in values):
            raise ConfigError(f"{source}: {name} must be a non-empty list of strings")
        parts.append(list(dict.fromkeys(normalise(value) for value in values)))
    if not any(parts[1]):
        raise ConfigError(f"{source}: instructions are missing")
    if "" in parts[1]:
        raise ConfigError(f"{source}: an instruction is empty")
    return parts


def _table(path: Path, kind: str) -> Mapping[str, Any]:
    """Return the parts in a file: its top level if that holds the lists, else the table `kind`."""
    document = parts_document(path)
    if any(name in document for name in PARTS):
        return document
    table = document.get(kind)
    if not isinstance(table, dict):
        names = ", ".join(map(str, document)) or "none"
        raise ConfigError(f"{path}: no table {short_repr(kind)}; the tables are {names:.200}")
    return table


def parts_document(path: Path) -> dict[str, Any]:
    """Return the content of a TOML or JSON file with lists of parts.

    Raises:
        ConfigError: the file cannot be read, or is malformed.
    """
    try:
        text = read_bytes(path, MAX_SETTINGS_BYTES).decode("utf-8-sig")
        if path.suffix.lower() == ".json":
            document = parse_json(text)
        else:
            import tomllib

            document = tomllib.loads(text)
    except UnreadableFileError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, TOML or JSON
        raise ConfigError(f"{path}: not a TOML or JSON file: {short_repr(str(error), 200)}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must hold tables with {', '.join(PARTS)}")
    return document


def part_tables(
    lists: Mapping[str, Sequence[str]] | str | Path | None, kind: str | None
) -> list[list[list[str]]]:
    """Return the parts of each table that prompts may be composed of: of one `kind`, or of all.

    Raises:
        ConfigError: the file or the parts are missing or malformed.
    """
    if isinstance(lists, Mapping) or kind is not None:
        return [read_parts(lists, kind or "")]
    document = parts_document(Path(lists or COMPOSE_FILE))
    if any(name in document for name in PARTS):
        return [read_parts(lists, "")]
    return [read_parts(lists, name) for name in document]
