"""Documents against the package: options, targets, files and names exist; figures are the measured ones."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import tree
from doc_tools import PAGES as ALL, ROOT, blocks_of

import zopo_fast as zf
from zopo_fast.cli.group import COMMANDS, load_command

README = ALL["README.md"]
PAGES = {page: text for page, text in ALL.items() if page.startswith(("README", "docs/", "bench/README"))}
TEXT = "\n".join(text for page, text in PAGES.items() if not page.startswith("bench/"))


def blocks(language: str) -> list[str]:
    pages = [page for page in PAGES if not page.startswith("bench/")]
    found = [block.code for page in pages for block in blocks_of(page) if block.language == language]
    assert found, f"no block of {language} in the documents"
    return found


def shell_lines() -> list[list[str]]:
    """Return the words of every command in the shell blocks, without comments; quotes may span lines."""
    commands: list[list[str]] = []
    pending = ""
    for line in "\n".join(blocks("sh")).replace("\\\n", " ").splitlines():
        pending += line
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # an open quote
            pending += "\n"
            continue
        pending = ""
        if words:
            commands.append(words)
    assert not pending, f"a quote is never closed: {pending[:60]}"
    return commands


def commands(subcommand: str) -> list[list[str]]:
    found = [words[1:] for words in shell_lines() if words[:2] == ["zopo-fast", subcommand]]
    found = [words for i, words in enumerate(found) if words not in found[:i]]
    assert found, f"no document shows zopo-fast {subcommand}"
    return found


def options_in(words: list[str]) -> list[str]:
    return [word.split("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)]


@cache
def options_of(subcommand: str) -> frozenset[str]:
    command = [str(Path(sys.executable).parent / "zopo-fast"), subcommand, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return frozenset(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", done.stdout))


def test_first_python_block_runs_as_shown(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", blocks("python")[0]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"Answer in \d+ words\. (-\d+|0)(\.0)?\n", done.stdout), done.stdout


def test_names_of_the_python_blocks_exist() -> None:
    names = {name for block in blocks("python") for name in re.findall(r"\bzf\.(\w+(?:\.\w+)?)", block)}
    assert {"Zopo", "Task.load", "OpenAIClient", "optimize"} <= names
    for name in names:
        thing = zf
        for part in name.split("."):
            assert hasattr(thing, part), name
            thing = getattr(thing, part)


@pytest.mark.parametrize("subcommand", ["optimize", "generate", "landscape", "serve"])
def test_options_exist(subcommand: str) -> None:
    shown = [option for words in commands(subcommand) for option in options_in(words)]
    assert len(shown) >= 2
    assert set(shown) <= options_of(subcommand)


def test_options_in_the_text_exist() -> None:
    known = frozenset().union(
        *map(
            options_of,
            ("optimize", "show", "check", "generate", "landscape", "serve", "bench", "sweep"),
        )
    )
    # Options of pip, python and vllm are not ours.
    codes = [code.split() for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", TEXT)]
    quoted = [
        word for words in codes if not {"pip", "python", "vllm"} & set(words) for word in options_in(words)
    ]
    assert {"--config", "--resume"} <= set(quoted)
    assert set(quoted) <= known


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described(name: str) -> None:
    for each in load_command(name).params:
        flags = [re.escape(flag) for flag in (*each.opts, *each.secondary_opts) if flag.startswith("-")]
        assert not flags or re.search(rf"(?<![\w-])(?:{'|'.join(flags)})(?![\w-])", TEXT), each.opts


def test_options_are_found_in_a_command() -> None:
    assert options_in(["a", "--out=x", "-n", "3", "-1", "--dry-run"]) == ["--out", "-n", "--dry-run"]
    assert "--bogus" not in options_of("optimize")


def test_make_targets_exist() -> None:
    targets = {words[1] for words in shell_lines() if words[0] == "make"}
    targets |= set(re.findall(r"`make ([\w-]+)`", TEXT))
    assert {"demo", "test"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_named_files_exist() -> None:
    named = set(re.findall(r"\b(?:bench|csrc|docs|examples|tests|zopo_fast)/[\w./-]*\w", README))
    assert "examples/sentiment.jsonl" in named
    for name in named:
        assert (ROOT / name).exists(), name
    for name in ("best_prompt.txt", "result.json", "trials.jsonl", "curve.png"):
        assert f"`{name}`" in README


def test_named_extras_and_requirements_are_those_of_the_package() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    extras = re.findall(r"`\[(\w+)\]`", TEXT)
    assert extras
    for extra in extras:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
    listed = re.search(r"^\| run-time dependencies \| ([^|]+)\|", TEXT, re.MULTILINE)
    declared = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert listed is not None
    assert declared is not None
    unconditional = [line for line in declared[1].splitlines() if "python_version" not in line]
    assert listed[1].strip().split(", ") == re.findall(r'"([a-z]+)', "\n".join(unconditional))


def test_speed_figures_come_from_the_result_files() -> None:
    """`python -m zopo_fast.bench.common.table README.md` would change nothing."""
    from zopo_fast.bench.common.table import filled

    for page in ("README.md", "bench/README.md"):
        assert filled(PAGES[page]) == PAGES[page], page
        with pytest.raises(LookupError, match="searches, table, limits"):
            filled(re.sub("bench: [a-z]+", "bench: lost", PAGES[page]))


def test_errors_of_the_known_providers_are_recognised() -> None:
    """Errors of each were recorded, and tests/llm reads all of them."""
    table = PAGES["docs/providers.md"].partition("## Known providers")[2].partition("## The embedded")[0]
    names = re.findall(r"^\| ([\w. ]+) \| `http", table, re.MULTILINE)
    recorded = (ROOT / "tests" / "golden" / "provider_errors.jsonl").read_text(encoding="utf-8")
    assert len(names) > 15
    assert [name for name in names if f'"name": "{name.lower()} ' not in recorded] == []


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_every_file_stands_in_the_architecture_page_with_its_own_first_line() -> None:
    """`python tests/repo/tree.py` changes nothing."""
    page = PAGES["docs/architecture.md"]
    assert tree.filled(page) == page
    assert "| `optimizer.py` |" in page
    assert "| `gram.cu` |" in page
