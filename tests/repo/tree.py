"""Write the file trees of docs/architecture.md from the files' own first lines: python tests/repo/tree.py

A line is the first sentence of a Python module's docstring, or of the comment at the top of a native file.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
NATIVE = {".cpp", ".hpp", ".cu", ".cuh", ".inl"}
_PLACE = re.compile(r"(<!-- tree: ([\w/]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def headline(path: Path) -> str:
    """Return the first sentence of a file, without its final stop.

    Raises:
        LookupError: the file says nothing about itself.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        lines = text.splitlines()
        comment = [line.removeprefix("//").strip() for line in lines[: _first_code(lines)]]
        said = "\n".join(comment)
    sentence = re.split(r"(?<=\.)\s|\n\n", said.strip(), maxsplit=1)[0]
    if not sentence and path.with_suffix(".hpp").exists():
        return f"definitions of {path.with_suffix('.hpp').name}"
    if not sentence:
        raise LookupError(f"{path.relative_to(ROOT)}: no line at its top says what it is")
    return " ".join(sentence.split()).rstrip(".:;")


def _first_code(lines: list[str]) -> int:
    return next((i for i, line in enumerate(lines) if not line.startswith("//")), len(lines))


def tree(folder: str) -> str:
    """Return a folder of the repository as Markdown, a table a subfolder and a row a file."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    paths = [ROOT / name for name in listed if Path(name).suffix in {".py", *NATIVE}]
    blocks: dict[str, list[str]] = {}
    for path in sorted(path for path in paths if path.exists()):
        rows = blocks.setdefault(path.parent.relative_to(ROOT).as_posix(), [])
        rows.append(f"| `{path.name}` | {headline(path).replace('|', '&#124;')} |")
    return "\n\n".join("\n".join([f"| **{name}/** | |", "|---|---|", *rows]) for name, rows in blocks.items())


def filled(page: str) -> str:
    """Return the page with every tree between its markers replaced by that of the files."""
    return _PLACE.sub(lambda place: f"{place[1]}\n{tree(place[2])}\n\n{place[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
