"""The documentation site: built with warnings as errors, complete, and without a request to another host."""

from __future__ import annotations

import ast
import functools
import http.server
import importlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from doc_tools import ROOT

import zopo_fast as zf
from zopo_fast.cli.group import COMMANDS, load_command

pytest.importorskip("mkdocs", reason="needs the extra docs: make docs")
mkdocstrings = pytest.importorskip("mkdocstrings", reason="needs the extra docs: make docs")

LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}
NOT_LOADED = {"canonical", "next", "prev", "alternate"}
CHROMIUM = Path("/usr/bin/chromium")


def build(config: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config), *more]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280, check=False
    )


def configured(folder: Path, *lines: str) -> Path:
    """Write the configuration of a site whose pages lie in `folder / "pages"`."""
    (folder / "docs").symlink_to(ROOT / "docs")  # paths in a configuration are relative to its folder
    config = folder / "mkdocs.yml"
    config.write_text(
        "\n".join([f"INHERIT: {ROOT / 'mkdocs.yml'}", "docs_dir: pages", "site_dir: site", *lines])
    )
    return config


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does, in a folder of its own."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, str(ROOT / "docs" / "site" / "pages.py"), str(folder / "pages")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = build(configured(folder))
    assert done.returncode == 0, done.stderr
    return folder / "site"


class Tags(HTMLParser):
    """Reader of what a page loads, its anchors and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag in LOADING and found.get("rel") not in NOT_LOADED:
            self.loaded.append(found.get(LOADING[tag], ""))
        self.loaded += re.findall(r"url\(([^)]+)\)", found.get("style", ""))

    def handle_data(self, data: str) -> None:
        self.text += data


def is_elsewhere(address: str) -> bool:
    return bool(re.match(r"['\"]?(\w+:)?//", address))


# ---- what the site holds ---------------------------------------------------------------------------------


def public_names() -> set[str]:
    """Return the public names of the package and of the modules that users import by their own names."""
    errors = {name for name, value in vars(zf.errors).items() if isinstance(value, type) and name[0] != "_"}
    names = {f"zopo_fast.{name}" for name in zf._LAZY} | {f"zopo_fast.errors.{name}" for name in errors}
    for path in (ROOT / "zopo_fast").glob("[a-z]*.py"):
        if path.stem != "errors":
            body = ast.parse(path.read_text(encoding="utf-8")).body
            defined = [each.name for each in body if isinstance(each, ast.FunctionDef | ast.ClassDef)]
            names |= {f"zopo_fast.{path.stem}.{name}" for name in defined if not name.startswith("_")}
    for home in zf._LAZY_MODULES.values():
        module = importlib.import_module(f"zopo_fast.{home}")
        names |= {f"zopo_fast.{home}.{name}" for name in module.__all__}
    return names


def test_the_reference_has_every_public_name(site: Path) -> None:
    with (site / "objects.inv").open("rb") as file:
        shown = set(mkdocstrings.Inventory.parse_sphinx(file))
    names = public_names()
    assert {"zopo_fast.Zopo", "zopo_fast.errors.ZopoError", "zopo_fast.torch.ntk_gram"} <= names
    assert names - shown == set()


def test_the_reference_has_settings_as_they_are_at_run_time(site: Path) -> None:
    text = " ".join(
        Tags((site / "reference" / "python_search.html").read_text(encoding="utf-8")).text.split()
    )
    assert "budget: int = 165" in text
    assert "Prompts scored in total, the initial ones included. Default: 165." in text
    assert "setting(" not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_has_every_option_in_its_group(site: Path, name: str) -> None:
    page = Tags((site / "reference" / "command_line.html").read_text(encoding="utf-8"))
    text = " ".join(page.text.split()).replace("¶", "")
    section = text.split(f"zopo-fast {name} zopo-fast {name}", 1)[1]
    options = [each for each in load_command(name).params if each.param_type_name == "option"]
    assert options
    for each in options:
        group = getattr(each, "group", "Options").lower()
        assert {f"{name}-{group}", f"{name}-most-used"} & page.anchors
        help_text = " ".join((getattr(each, "help", "") or "").split())
        assert help_text.split(" [")[0] in section, each.opts
        assert max(each.opts, key=len) in section


def test_the_reference_has_every_operation_and_schema(site: Path) -> None:
    pytest.importorskip("msgspec")
    document = site_module("http_reference").document()
    page = Tags((site / "reference" / "http.html").read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in text
            assert operation["operationId"] in page.anchors
            assert all(each["name"] in text for each in operation.get("parameters", []))
            assert {f"problem-{s}" for s in operation["responses"] if int(s) >= 400} <= page.anchors
    for name, schema in document["components"]["schemas"].items():
        assert name.lower() in page.anchors
        for field, each in schema.get("properties", {}).items():
            assert field in text
            assert " ".join(each.get("description", "").split()) in text


def test_the_concepts_have_their_pictures(site: Path) -> None:
    text = (site / "concepts.html").read_text(encoding="utf-8")
    marked = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8").count("<!-- made at build:")
    assert text.count('class="marks"') == marked == 4
    assert "NaN" not in text


# ---- requests --------------------------------------------------------------------------------------------


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    found = [Tags(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")]
    assert len(found) > 25
    loaded = {address for page in found for address in page.loaded}
    for path in site.rglob("*.css"):
        found = re.findall(r"url\(([^)]+)\)|@import\s*['\"]([^'\"]+)", path.read_text(encoding="utf-8"))
        loaded |= {first or second for first, second in found}
    assert any(address.endswith(".js") for address in loaded)
    assert {address for address in loaded if is_elsewhere(address)} == set()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder on the loopback interface."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium")
def test_a_browser_requests_nothing_from_elsewhere_and_finds_an_option(site: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    requested: list[str] = []
    complaints: list[str] = []
    with serving(site) as url, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.on("request", lambda request: requested.append(request.url))
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type == "error" else None
        )
        for name in (
            "index",
            "concepts",
            "reference/command_line",
            "reference/python_search",
            "reference/http",
        ):
            page.goto(f"{url}/{name}.html", wait_until="networkidle")
        page.click(".md-search__input")
        page.keyboard.type("paraphrase rephrases")
        page.wait_for_selector(".md-search-result__item:has-text('Command line reference')")
        browser.close()
    assert [address for address in requested if not address.startswith((url, "data:", "blob:"))] == []
    assert complaints == []


# ---- what the build refuses ------------------------------------------------------------------------------


def site_module(name: str) -> Any:
    """Import a module of docs/site."""
    folder = str(ROOT / "docs" / "site")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("[a](nowhere.md)", FileNotFoundError, "leads nowhere"),
        ("<!-- made at build: nothing -->", KeyError, "nothing"),
    ],
)
def test_a_page_with_a_broken_link_or_an_unknown_part_is_refused(
    text: str, error: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_module("pages")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    (tmp_path / "a.md").write_text(f"# A\n\n{text}\n")
    with pytest.raises(error, match=said):
        site.Site({"a.md": "a.md"}, "https://example.org", tmp_path).page("a.md")


def test_links_become_those_of_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_module("pages")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    for name in ("README.md", "docs/a.md", "docs/b/c.md", "x.py", "x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# Title of {name}\n")
    made = site.Site(
        {"README.md": "index.md", "docs/a.md": "a.md", "docs/b/c.md": "b/c.md"},
        "https://example.org",
        tmp_path / "out",
    )
    (tmp_path / "README.md").write_text(
        "[docs/a.md](docs/a.md) [x](x.py) ![p](x.png)\n```sh\n[n](n.md)\n```\n"
    )
    assert made.page("README.md") == (
        "[Title of docs/a.md](a.md) [x](https://example.org/blob/main/x.py) ![p](x.png)\n"
        "```sh\n[n](n.md)\n```\n"
    )
    assert (tmp_path / "out" / "x.png").exists()
    (tmp_path / "docs" / "b" / "c.md").write_text("[a](../a.md#t) [r](../../README.md)")
    assert made.page("docs/b/c.md") == "[a](../a.md#t) [r](../index.md)"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("[a](#nowhere)", "no such anchor"),
        ("[a](b.md)", "not found"),
        ("::: zopo_fast.Nothing", "zopo_fast.Nothing"),
    ],
)
def test_warnings_are_errors(text: str, warning: str, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.md").write_text(f"# A\n\n{text}\n")
    done = build(configured(tmp_path, "nav: [index.md]", "extra_css: []"))
    assert done.returncode != 0
    assert warning in done.stderr
