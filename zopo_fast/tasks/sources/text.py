"""Text of a file: size limit, gzip, and the encoding, which only a byte order mark or the caller decides."""

from __future__ import annotations

import codecs
import contextlib
import zlib
from typing import TYPE_CHECKING

from zopo_fast._utils.files import MAX_DATA_BYTES, UnreadableFileError, read_bytes
from zopo_fast._utils.text import short_repr
from zopo_fast.errors import ConfigError, TaskError

if TYPE_CHECKING:
    from pathlib import Path

# The mark of UTF-32 LE begins with that of UTF-16 LE.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_OTHER_FILES = {
    b"PK\x03\x04": "an Excel workbook or another ZIP archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
}
_SAMPLE = 2**20  # bytes that a likely encoding is looked for in


def check_encoding(name: str) -> None:
    """Check the name of an encoding.

    Raises:
        ConfigError: Python knows no text encoding of this name.
    """
    try:
        codecs.lookup(name)
        with contextlib.suppress(UnicodeDecodeError):  # an encoding of more than one byte a character
            b"a".decode(name)
    except (LookupError, ValueError, TypeError) as error:
        raise ConfigError(
            f"encoding: unknown name {short_repr(name)}; use one such as utf-8, utf-16, cp1252 or shift_jis"
        ) from error


def read_text(path: Path, encoding: str | None = None) -> str:
    """Read a text file, decompressing it if its name ends in `.gz`.

    Args:
        path: of the file.
        encoding: of the text; None: UTF-8, or what a byte order mark says.

    Raises:
        TaskError: the file cannot be read, is empty, or is in another encoding.
        ConfigError: the encoding is unknown.
    """
    content = read_content(path)
    for mark, program in _OTHER_FILES.items():
        if content.startswith(mark):
            raise TaskError(f"holds {program} and no text; export it as CSV", path=path)
    if encoding is None:
        encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
        is_given = False
    else:
        check_encoding(encoding)
        is_given = True
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        line = content[:start].decode(encoding, "ignore").count("\n") + 1 if start else 1
        reason = error.reason if isinstance(error, UnicodeDecodeError) else str(error)
        name = "UTF-8" if encoding.startswith("utf-8") and not is_given else encoding
        hint = _encoding_hint(content) if not is_given else "; --encoding takes another name"
        raise TaskError(f"not {name}: {reason}{hint}", path=path, line=line) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        hint = _encoding_hint(content) if not is_given else ""
        raise TaskError(f"holds NUL characters, which no text has{hint}", path=path, line=line)
    if not text.strip():
        raise TaskError("the file is empty", path=path)
    return text


def read_content(path: Path) -> bytes:
    """Read the bytes of a file; decompress it if its name ends in `.gz`.

    Raises:
        TaskError: the file cannot be read, is too large, or is no gzip file.
    """
    try:
        content = read_bytes(path, MAX_DATA_BYTES)
    except UnreadableFileError as error:
        reason = "no such file" if error.missing else f"cannot be read: {error}"
        raise TaskError(reason, path=path) from error
    return _decompressed(content, path) if path.suffix.lower() == ".gz" else content


def _decompressed(content: bytes, path: Path) -> bytes:
    parts, size = [], 0
    try:
        while content:  # a file may hold several members, one after the other
            member = zlib.decompressobj(wbits=31)
            part = member.decompress(content, MAX_DATA_BYTES - size + 1)
            size += len(part)
            parts.append(part)
            if size > MAX_DATA_BYTES:
                raise TaskError(f"larger than {MAX_DATA_BYTES:,} bytes when decompressed", path=path)
            if not member.eof:
                raise TaskError("not a complete gzip file", path=path)
            content = member.unused_data.lstrip(b"\0")  # padding of some writers
    except (zlib.error, MemoryError) as error:
        raise TaskError(f"not a gzip file: {error}", path=path) from error
    return b"".join(parts)


def _encoding_hint(content: bytes) -> str:
    """Return a likely encoding for an error message; which one it is only the caller knows."""
    sample = content[:_SAMPLE]
    likely = _likely_encodings(sample)
    if not likely:
        return "; name the encoding of the file by --encoding"
    return f"; name the encoding of the file by --encoding, likely {' or '.join(likely)}"


def _likely_encodings(sample: bytes) -> list[str]:
    zeros = [sample[i::2].count(0) for i in (0, 1)]
    if max(zeros) > len(sample) // 8:  # text of a Western language as 16-bit units has a zero in each
        return ["utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"]
    high = sum(1 for byte in sample if byte >= 0x80)
    letters = sum(1 for byte in sample if byte >= 0x80 or chr(byte).isalpha())
    # Accented letters are rare in a Western text; most letters are high bytes in other scripts.
    names = ["cp1252", "latin-1"] if high < letters / 3 else ["gb18030", "shift_jis", "euc_kr", "cp1251"]
    return [name for name in names if _decodes(sample, name)][:2]


def _decodes(sample: bytes, name: str) -> bool:
    try:
        codecs.getincrementaldecoder(name)().decode(sample)  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return True


def suffix_of(path: Path) -> str:
    """Return the suffix in lower case, without that of compression."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def name_of(path: Path) -> str:
    """Return the name of a task file without its suffixes."""
    if path.is_dir():
        return path.name or path.resolve().name
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).stem
