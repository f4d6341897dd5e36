"""Folders of data: those of `datasets.save_to_disk`, and files named after their split."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zopo_fast._utils.files import MAX_DATA_BYTES, MAX_SETTINGS_BYTES, UnreadableFileError, read_bytes
from zopo_fast._utils.text import parse_json, short_repr
from zopo_fast.errors import TaskError
from zopo_fast.tasks import splits
from zopo_fast.tasks.rows import Row, Source, Wanted, log
from zopo_fast.tasks.sources.columnar import SUFFIXES, read_columnar
from zopo_fast.tasks.sources.text import suffix_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_SAVED_DICT, _SAVED, _SAVED_INFO = "dataset_dict.json", "state.json", "dataset_info.json"
_DESCRIPTIONS = ("dataset_infos.json", _SAVED_INFO, _SAVED, _SAVED_DICT, "config.json", "metadata.json")
# Formats in the order in which they are looked for.
_MAX_DEPTH = 4
_PREFERRED = (*SUFFIXES, ".jsonl", ".ndjson", ".json", ".csv", ".tsv")


def read_folder(folder: Path, wanted: Wanted, read_file: Callable[[Path], Source]) -> Source:
    """Read a folder of data.

    Args:
        folder: of `datasets.save_to_disk`, or with files such as train.jsonl, test.csv or data/*.parquet.
        wanted: fields of input and output.
        read_file: reads a single file.

    Raises:
        TaskError: the folder holds no data, or a file is malformed.
        MissingDependencyError: pyarrow is not installed and needed.
    """
    try:
        if (folder / _SAVED_DICT).exists():
            names = _object(folder / _SAVED_DICT).get("splits")
            parts = [(name, _saved(folder / name, wanted)) for name in _file_names(folder, names)]
        elif (folder / _SAVED).exists():
            parts = [("", _saved(folder, wanted))]
        else:
            parts = [(name, read_file(path)) for name, path in _files(folder)]
    except OSError as error:
        raise TaskError(f"cannot be read: {error.strerror or error}", path=folder) from error
    return _joined(folder, parts, wanted)


def _joined(folder: Path, parts: list[tuple[str, Source]], wanted: Wanted) -> Source:
    """Return the rows of all parts, each with the side of its split."""
    rows: list[Row] = []
    kept: list[Source] = []
    for name, source in parts:
        side = splits.side_of(name) if name else ""
        if side is None:
            _leave_out(folder, f"split {short_repr(name)}, whose name is neither of train nor of held out")
            continue
        if side == "heldout" and _lacks_outputs(source, wanted):  # as in the test set of a contest
            _leave_out(folder, f"{short_repr(name)}, which has no {short_repr(wanted.output)}")
            continue
        kept.append(source)
        rows += source.rows if not side else (_with_split(row, side) for row in source.rows)
    if not kept:
        raise TaskError("no part of the folder is usable", path=folder)
    if rows and all(row.fields.get("split") == "heldout" for row in rows):
        # Nothing would be left to score prompts on.
        log.warning("%s: all splits are of held-out examples; their names do not count", folder)
        rows = [row for source in kept for row in source.rows]
    headers = {source.header for source in kept}
    header = headers.pop() if len(headers) == 1 else None
    return Source(folder, kept[0].metadata, rows, header, kept[0].header_line)


def _leave_out(folder: Path, what: str) -> None:
    log.warning("%s: left out: %s", folder, what)


def _with_split(row: Row, side: str) -> Row:
    return replace(row, fields={"split": side, **row.fields})


def _lacks_outputs(source: Source, wanted: Wanted) -> bool:
    if source.header is not None and wanted.output not in source.header:
        return any(name in source.header for name in (wanted.parts or (wanted.input,)))
    rows = source.rows
    return bool(rows) and all(wanted.output in r.fields and r.fields[wanted.output] is None for r in rows)


def _saved(folder: Path, wanted: Wanted) -> Source:
    """Read a folder of `Dataset.save_to_disk`."""
    entries = _object(folder / _SAVED).get("_data_files")
    if not isinstance(entries, list):
        raise TaskError('needs a list "_data_files"', path=folder / _SAVED)
    names = [entry.get("filename") if isinstance(entry, dict) else entry for entry in entries]
    info = folder / _SAVED_INFO
    features = _object(info).get("features") if info.exists() else None
    known = features if isinstance(features, dict) else None
    sources = [read_columnar(folder / name, wanted, known) for name in _file_names(folder, names)]
    rows = [row for source in sources for row in source.rows]
    return Source(folder, {}, rows, sources[0].header)


def _object(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(read_bytes(path, MAX_SETTINGS_BYTES).decode("utf-8-sig"))
    except UnreadableFileError as error:
        raise TaskError(f"cannot be read: {error}", path=path) from error
    except ValueError as error:
        raise TaskError(f"not JSON: {error}", path=path) from error
    if not isinstance(value, dict):
        raise TaskError("must be a JSON object", path=path)
    return value


def _file_names(folder: Path, names: object) -> list[str]:
    """Return names of files in a folder as a description lists them; a name must not lead out of it."""
    if not isinstance(names, list) or not names:
        raise TaskError("names no files of data", path=folder)
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0]", name):
            raise TaskError(f"names {short_repr(name)}, which is no file of the folder", path=folder)
    return names


def _files(folder: Path, depth: int = 0) -> list[tuple[str, Path]]:
    """Return the files of data with the name of their split; an empty name for a single file without one."""
    below = [each for each in _listed(folder) if each.is_dir()]
    places = [folder, *(each for each in below if each.name == "data" or _split_of(each.name))]
    found = [path for place in places for path in _listed(place) if _is_data(path)]
    for suffix in _PREFERRED:
        files = [path for path in found if suffix_of(path) == suffix]
        named = {path: name for path in files if (name := _name_of_split(path, folder))}
        if named:
            _check_size(folder, named)
            if left := [path.name for path in found if path not in named and suffix_of(path) == suffix]:
                _leave_out(folder, f"{', '.join(left[:5])}, whose name is that of no split")
            return [(name, path) for path, name in named.items()]
    if len(found) == 1:
        return [("", found[0])]
    if found:
        names = ", ".join(path.name for path in found[:5])
        raise TaskError(f"several files and none named after a split: {names}; name one of them", path=folder)
    if len(below) == 1 and depth < _MAX_DEPTH:  # the only configuration of a data set
        return _files(below[0], depth + 1)
    hint = f"; name one of its folders: {', '.join(each.name for each in below[:5])}" if below else ""
    raise TaskError(
        f"a directory, not a regular file, and without data such as train.jsonl or data/*.parquet{hint}",
        path=folder,
    )


def _listed(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if not each.name.startswith("."))


def _is_data(path: Path) -> bool:
    return suffix_of(path) in _PREFERRED and path.name not in _DESCRIPTIONS and path.is_file()


def _name_of_split(path: Path, folder: Path) -> str:
    name = _split_of(path.name)
    return name or (_split_of(path.parent.name) if path.parent != folder else "")


def _split_of(name: str) -> str:
    """Return the word of a name that names a split, such as `test` of `sst2-test.csv`."""
    if splits.side_of(name) is not None:
        return name
    return next((word for word in re.findall(r"[^\W\d_]+", name) if splits.side_of(word)), "")


def _check_size(folder: Path, files: Iterable[Path]) -> None:
    if sum(path.stat().st_size for path in files) > MAX_DATA_BYTES:
        raise TaskError(f"larger than {MAX_DATA_BYTES:,} bytes in all", path=folder)
