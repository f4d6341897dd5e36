"""Write the pages of the documentation site: python docs/site/pages.py FOLDER

The pages are those of docs/ and some of the repository around it. Their links lead to pages of the site, or
else to the repository's files. Comments such as `<!-- made at build: http -->` give way to the parts
that they name. What comes out is plain Markdown, so that another generator of sites can read it.
"""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import command_reference
import http_reference
from pictures import PICTURES

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "README.md": "index.md",
    "bench/README.md": "benchmarks.md",
    "bench/landscapes/README.md": "landscapes.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Page of the site by its file in the repository."""

PARTS: dict[str, Callable[[], str]] = {
    "command line": command_reference.reference, "http": http_reference.reference, **PICTURES
}  # fmt: skip
"""Maker of each part, by the name in its comment."""

_LINK = re.compile(r"(!?)\[([^\]\n]*)\]\((?!\w+:)([^)#\s]+)(#[^)\s]+)?\)")
_FENCE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
_MARKER = re.compile(r"^<!-- made at build: ([\w ]+) -->$", re.MULTILINE)


def write_pages(folder: Path) -> None:
    """Write all pages and what they need, in place of a folder of an earlier build."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "stylesheets", folder / "stylesheets")
    docs = ROOT / "docs"
    pages = {
        path.relative_to(ROOT).as_posix(): path.relative_to(docs).as_posix() for path in docs.rglob("*.md")
    }
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    site = Site({**pages, **OUTSIDE}, repository, folder)
    for source, page in site.pages.items():
        target = folder / page
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(site.page(source), encoding="utf-8")


class Site:
    """Map between the repository and the site.

    Args:
        pages: page of the site by its file in the repository.
        repository: address of the repository.
        folder: where images go.
    """

    def __init__(self, pages: dict[str, str], repository: str, folder: Path) -> None:
        self.pages, self._repository, self._folder = pages, repository, folder

    def page(self, source: str) -> str:
        """Return the text of a page of the site.

        Raises:
            FileNotFoundError: A link leads nowhere.
            KeyError: Nothing makes a part.
        """
        pieces = _FENCE.split((ROOT / source).read_text(encoding="utf-8"))
        pieces[::2] = [_LINK.sub(lambda link: self._resolved(source, link), piece) for piece in pieces[::2]]
        return _MARKER.sub(lambda marker: PARTS[marker[1]](), "".join(pieces))

    def _resolved(self, source: str, link: re.Match[str]) -> str:
        """Return a link of a file of the repository as a link of the site; images are copied there."""
        image, label, target, anchor = link[1], link[2], link[3], link[4] or ""
        path = (ROOT / source).parent.joinpath(target).resolve()
        if not path.exists():
            raise FileNotFoundError(f"{source}: the link to {target} leads nowhere")
        name = path.relative_to(ROOT).as_posix()
        up = "../" * self.pages[source].count("/")
        if image:
            (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, self._folder / name)
            return f"![{label}]({up}{name})"
        if name not in self.pages:
            return f"[{label}]({self._repository}/{'tree' if path.is_dir() else 'blob'}/main/{name}{anchor})"
        if target.endswith(label):  # a path means nothing on the site
            label = path.read_text(encoding="utf-8").partition("# ")[2].partition("\n")[0]
        return f"[{label}]({up}{self.pages[name]}{anchor})"


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
