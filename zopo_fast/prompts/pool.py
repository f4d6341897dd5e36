"""Pool of distinct candidate prompts with their counts and prior scores, read from a file.

- `.txt`: one prompt a line; blank lines are ignored.
- `.jsonl`: a JSON string a line, or an object `{"prompt": ..., "score": ..., "count": ...}`; score and count
  are optional, other fields are ignored.
- `.parquet`: columns `prompt` and, where there are any, `score` and `count`; other columns are not read.

Text files, and the texts of a Parquet file, are limited to 1 GiB.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zopo_fast._utils.checks import real
from zopo_fast._utils.files import MAX_DATA_BYTES, UnreadableFileError, read_bytes, write_atomic
from zopo_fast._utils.public import public
from zopo_fast._utils.text import json_line, nfc, parse_json, short_repr
from zopo_fast.errors import ConflictingScoreError, PoolError
from zopo_fast.prompts.parquet import prompt_rows

_NEWLINE = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_MAX_COUNT = 2**53  # the largest integer that every reader of JSON keeps
_BLANKS = re.compile(r"(?<=\S)[^\S\n]+(?=\S)")


def normalise(text: str) -> str:
    """Return a prompt in the normal form by which duplicates are recognised.

    The form is Unicode NFC with "\\n" as newline, no blanks at the ends of the text and of each line, and
    single blanks within a line. Newlines and the indentation of later lines are kept, since a prompt may hold
    examples laid out in lines. Case is significant.
    """
    text = nfc(text)
    if " ".join(text.split()) == text:  # most prompts; the expressions below take seconds for a million
        return text
    lines = _NEWLINE.sub("\n", text).split("\n")
    return "\n".join(_BLANKS.sub(" ", line.rstrip()) for line in lines).strip()


@public
@dataclass(frozen=True)
class Pool:
    """Distinct normalised prompts, in order of first occurrence.

    `load` and `from_texts` normalise prompts and merge duplicates; the constructor checks only.

    Args:
        prompts: distinct and normalised.
        counts: number of occurrences of each prompt.
        scores: prior score by pool index, for some of the prompts.

    Raises:
        PoolError: a prompt is not normalised or not distinct, or a count or score does not fit the prompts.
    """

    prompts: tuple[str, ...]
    counts: tuple[int, ...]
    scores: Mapping[int, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.prompts) or not all(map(_is_count, self.counts)):
            raise PoolError("counts: expected one of at least 1 for every prompt")
        for prompt in self.prompts:
            try:
                normal = _text(prompt)
            except _MalformedEntry as problem:
                raise PoolError(f"{short_repr(prompt)}: {problem}") from None
            if prompt != normal:
                raise PoolError(f"prompts: {short_repr(prompt)} is not normalised; use Pool.from_texts")
        if len(set(self.prompts)) != len(self.prompts):
            raise PoolError("prompts: a prompt occurs twice; use Pool.from_texts, which merges duplicates")
        for index, score in self.scores.items():
            if index not in range(len(self.prompts)) or not _is_finite(score):
                raise PoolError(
                    f"scores: {short_repr(score)} at index {short_repr(index)}: no such prompt, "
                    "or not a finite number"
                )
        object.__setattr__(self, "scores", dict(self.scores))

    def __len__(self) -> int:
        return len(self.prompts)

    @classmethod
    def _of_checked(
        cls, prompts: tuple[str, ...], counts: tuple[int, ...], scores: Mapping[int, float]
    ) -> Pool:
        """Return a pool of parts that are checked already: a second check of a million takes seconds."""
        pool = cls.__new__(cls)
        for name, value in {"prompts": prompts, "counts": counts, "scores": scores}.items():
            object.__setattr__(pool, name, value)
        return pool

    @classmethod
    def from_texts(
        cls, texts: Sequence[str], scores: Sequence[float | None] | Mapping[int, float] | None = None
    ) -> Pool:
        """Normalise texts and merge duplicates.

        Args:
            texts: the prompts.
            scores: prior scores: one a text, None for an unknown one; or a mapping from position to score.

        Raises:
            PoolError: a text is no string, or is empty; a score is not a finite number.
            ConflictingScoreError: duplicates of one prompt have different scores.
        """
        if isinstance(texts, str):
            raise PoolError("texts must be a sequence of strings, not one string")
        known = _by_position(scores, len(texts))
        builder = _PoolBuilder()
        for position, text in enumerate(texts):
            try:
                builder.add(text, known.get(position), 1)
            except _MalformedEntry as problem:
                raise PoolError(f"text {position}: {problem}") from None
        return builder.pool()

    @classmethod
    def load(cls, path: str | Path) -> Pool:
        """Read a `.txt`, `.jsonl` or `.parquet` file and merge duplicates.

        Raises:
            PoolError: the file is missing, empty, not UTF-8 or malformed; names path and line or row.
            ConflictingScoreError: duplicates of one prompt have different scores.
            MissingDependencyError: pyarrow is not installed, and the file is a Parquet file.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in {".txt", ".jsonl", ".parquet"}:
            raise PoolError("a pool is a .txt (one prompt a line), .jsonl or .parquet file", path=path)
        builder = _PoolBuilder()
        is_table = suffix == ".parquet"
        entries: Iterator[tuple[int, Any]] = prompt_rows(path) if is_table else _lines(path)
        for number, entry in entries:
            try:
                builder.add(
                    *(_record(entry) if suffix == ".jsonl" else entry if is_table else (entry, None, 1))
                )
            except _MalformedEntry as problem:
                where = f"row {number}, counted from 0: " if is_table else ""
                raise PoolError(where + str(problem), path=path, line=None if is_table else number) from None
            except ConflictingScoreError as error:
                raise ConflictingScoreError(f"{path}:{number}: {error}") from None
        if not builder.prompts:
            raise PoolError("the file holds no prompts", path=path)
        return builder.pool()

    def save(self, path: str | Path) -> None:
        """Write a `.jsonl` file atomically.

        Raises:
            PoolError: the path has another suffix.
            OutputError: the file cannot be written.
        """
        try:
            suffix = Path(os.path.realpath(path)).suffix
        except ValueError as error:  # NUL, or half a surrogate pair
            raise PoolError(f"not a path: {error}", path=path) from error
        if suffix.lower() != ".jsonl":
            raise PoolError("a pool is saved as a .jsonl file", path=path)
        write_atomic(path, "".join(map(json_line, self._rows())).encode())

    def require(self, least: int = 2) -> Pool:
        """Return the pool itself.

        Raises:
            PoolError: the pool has fewer than `least` prompts.
        """
        if len(self) < least:
            raise PoolError(f"the pool has {len(self)} distinct prompts, at least {least} are needed")
        return self

    def with_prompts(self, texts: Sequence[str]) -> Pool:
        """Return a pool with further prompts behind those of this one.

        Raises:
            PoolError: a text is not normalised, or is in the pool.
        """
        more = Pool(tuple(texts), (1,) * len(texts))
        if known := set(self.prompts).intersection(more.prompts):
            raise PoolError(f"prompts: {short_repr(min(known))} is in the pool")
        return Pool._of_checked((*self.prompts, *more.prompts), (*self.counts, *more.counts), self.scores)

    def _rows(self) -> Iterator[dict[str, str | int | float]]:
        for index, (prompt, count) in enumerate(zip(self.prompts, self.counts, strict=True)):
            row: dict[str, str | int | float] = {"prompt": prompt, "count": count}
            if index in self.scores:
                row["score"] = self.scores[index]
            yield row


class _MalformedEntry(Exception):  # noqa: N818 - becomes a PoolError once path and line are known
    """Reason why an entry cannot be used."""


class _PoolBuilder:
    """Merges entries into a pool."""

    def __init__(self) -> None:
        self.prompts: dict[str, int] = {}  # prompt -> index
        self._counts: list[int] = []
        self._scores: dict[int, float] = {}

    def add(self, text: object, score: object, count: object) -> None:
        prompt = _text(text)
        if not _is_count(count):
            raise _MalformedEntry(f"count must be an integer from 1 to 2**53, not {short_repr(count)}")
        value = None if score is None else _finite(score)
        index = self.prompts.setdefault(prompt, len(self.prompts))
        if index == len(self._counts):
            self._counts.append(0)
        self._counts[index] = min(self._counts[index] + count, _MAX_COUNT)  # type: ignore[operator]
        if value is not None and self._scores.setdefault(index, value) != value:
            raise ConflictingScoreError(
                f"{short_repr(prompt)} has two scores: {self._scores[index]!r} and {value!r}"
            )

    def pool(self) -> Pool:
        return Pool._of_checked(tuple(self.prompts), tuple(self._counts), self._scores)


def _finite(score: object) -> float:
    if not _is_finite(score):
        raise _MalformedEntry(f"score must be a finite number, not {short_repr(score)}")
    return float(score)  # type: ignore[arg-type]


def _is_finite(score: object) -> bool:
    try:
        return not isinstance(score, bool) and math.isfinite(real(score))
    except (TypeError, ValueError, OverflowError):
        return False


def _is_count(count: object) -> bool:
    return isinstance(count, int) and not isinstance(count, bool) and 1 <= count <= _MAX_COUNT


def _text(text: object) -> str:
    if not isinstance(text, str):
        raise _MalformedEntry(f"a prompt must be a string, not {type(text).__name__}")
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        raise _MalformedEntry("the prompt holds a lone surrogate") from None
    prompt = normalise(text)
    if not prompt:
        raise _MalformedEntry("the prompt is empty")
    return prompt


def _by_position(
    scores: Sequence[float | None] | Mapping[int, float] | None, length: int
) -> Mapping[int, float | None]:
    if scores is None:
        return {}
    if isinstance(scores, Mapping):
        if unknown := [position for position in scores if position not in range(length)]:
            raise PoolError(f"scores: no text {short_repr(unknown[0])}; there are {length} texts")
        return dict(scores)
    if len(scores) != length:
        raise PoolError(f"{len(scores)} scores for {length} texts")
    return dict(enumerate(scores))


def _read(path: Path) -> str:
    try:
        data = read_bytes(path, MAX_DATA_BYTES)
    except UnreadableFileError as error:
        raise PoolError(f"cannot be read: {error}", path=path) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PoolError("not UTF-8", path=path, line=data[: error.start].count(b"\n") + 1) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines that are not blank."""
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if line.strip():
            yield number, line


def _record(line: str) -> tuple[object, object, object]:
    """Return prompt, score and count of a line of JSON."""
    try:
        value = parse_json(line, parse_constant=float)  # NaN gets the error of a score that is not finite
    except ValueError as error:
        raise _MalformedEntry(f"not JSON: {error}") from None
    if isinstance(value, str):
        return value, None, 1
    if not isinstance(value, dict) or "prompt" not in value:
        raise _MalformedEntry('expected a JSON string or an object with "prompt"')
    return value["prompt"], value.get("score"), value.get("count", 1)
