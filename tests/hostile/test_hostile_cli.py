"""Any command line and configuration file: the command exits with a code and prints no control characters."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

import click
import pytest
from hostile_tools import NASTY, numbers, texts
from hypothesis import HealthCheck, example, given, settings, strategies as st
from time_tools import time_limit

from zopo_fast.cli import group as cli
from zopo_fast.cli.terminal.progress import Progress
from zopo_fast.llm.types import Usage

COMMANDS = ("optimize", "landscape", "generate", "bench")
TASK = "".join(json.dumps({"input": f"i{n}", "output": "o"}) + "\n" for n in range(8))
BASE: dict[str, list[str]] = {
    "optimize": ["optimize", "t.jsonl", "--pool", "p.txt", "--budget", "3", "--dry-run"],
    "landscape": ["landscape", "t.jsonl", "--pool", "p.txt", "--out", "out", "--dry-run"],
    "generate": ["generate", "t.jsonl", "--how", "compose", "-n", "3", "--out", "new.jsonl"],
    "bench": ["bench", "--list"],
}
ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
# Parameters of a command, except those that would keep it running.
KEPT_OUT = {"dry_run", "how", "help"}


def options(command: str) -> list[click.Option]:
    parameters = cli.load_command(command).params
    return [p for p in parameters if isinstance(p, click.Option) and p.name not in KEPT_OUT]


def run(*args: str) -> tuple[int, str]:
    """Run the command in this process; return its exit code and output, fail on any other exception."""
    out = io.StringIO()
    argv, sys.argv = sys.argv, ["zopo-fast", *args]
    try:
        with time_limit(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
        return code, out.getvalue()
    finally:
        sys.argv = argv
    raise AssertionError("the command returned without an exit")


def check(code: int, output: str) -> None:
    assert code in (0, 1, 2)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in output if c != "\n"), (
        ascii(output)
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOPO_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "t.jsonl").write_text(TASK, encoding="utf-8")
    (tmp_path / "p.txt").write_text("".join(f"prompt {n}\n" for n in range(6)), encoding="utf-8")
    return tmp_path


values = st.one_of(
    texts,
    st.sampled_from(
        [
            "nan", "inf", "-inf", "1e999", "-1", "0", "1", "1.5", "9" * 400, "9" * 5000, "0x10", "NaN", "1_0",
            "٣", "{}", "[]",
            "[" * 100_000, '{"a":' * 100_000, '{"temperature": NaN}', '{"max_tokens": 1e999}',
            '{"x": "\\ud800"}', '{"X-A": "b\\r\\nc"}', "a\0b", "\ud800", "@", "@a\0b", "@/dev/zero", "@.",
            '{"a": 1, "a": 2}', "/dev/zero", ".",
            "a" * 5000, "../x", "judge", "f1", "system", "0:1", "1:0", "nan:nan", "inf:inf", "http://[::1",
        ]
    ),
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@ONE_FOLDER
@given(data=st.data())
def test_any_options_end_with_an_exit_code(command: str, data: st.DataObject) -> None:
    args = list(BASE[command])
    for option in data.draw(st.lists(st.sampled_from(options(command)), max_size=3)):
        args.append(data.draw(st.sampled_from(option.opts + option.secondary_opts)))
        if not option.is_flag:
            args.append(data.draw(values))
    if data.draw(st.integers(0, 4)) == 0:
        args.insert(data.draw(st.integers(0, len(args))), data.draw(values))
    check(*run(*args))
    Path("new.jsonl").unlink(missing_ok=True)


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return hex(value) if isinstance(value, int) and value > 2**64 else repr(value)
    return json.dumps(value, ensure_ascii=True).replace("\\ud800", "\\u0000").replace("\\udcff", "\\u0001")


@pytest.mark.parametrize("command", ["optimize", "generate"])
@ONE_FOLDER
@given(data=st.data())
def test_any_configuration_ends_with_an_exit_code(command: str, data: st.DataObject) -> None:
    """The values are numbers, booleans, dates and tables, and the names may be unknown."""
    names = st.one_of(st.sampled_from([option.opts[-1].lstrip("-") for option in options(command)]), texts)
    kinds = st.one_of(values, numbers.filter(lambda n: isinstance(n, (bool, int, float, str, list))))
    table = data.draw(st.dictionaries(names, kinds, max_size=3))
    lines = []
    for name, value in table.items():
        quoted = toml(name)
        try:
            lines.append(f"{quoted} = {toml(value)}\n")
        except ValueError:  # not expressible in JSON
            continue
    Path("c.toml").write_text("".join(lines), encoding="utf-8", errors="replace")
    check(*run(*BASE[command], "--config", "c.toml"))
    Path("new.jsonl").unlink(missing_ok=True)


@ONE_FOLDER
@given(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"\xff\xfe", b"a = " + b"[" * 100_000, b"a = 0x" + b"f" * 5000]),
    )
)
@example(b"budget = 2021-01-01")
@example(b"body = { temperature = nan }")
@example(b"body = { n = 0x" + b"f" * 5000 + b" }")
def test_any_bytes_as_a_configuration_end_with_an_exit_code(content: bytes) -> None:
    Path("c.toml").write_bytes(content)
    check(*run(*BASE["optimize"], "--config", "c.toml"))


@pytest.mark.parametrize("option", ["--temperature", "--timeout", "--price-in", "--max-failed"])
@pytest.mark.parametrize("value", ["nan", "inf", "-nan"])
def test_invalid_numbers_are_refused(option: str, value: str) -> None:
    command = "landscape" if option == "--max-failed" else "optimize"
    code, output = run(*BASE[command], option, value)
    assert code == 2
    assert option in output


@pytest.mark.parametrize("nasty", [text for text in NASTY if text.strip()], ids=ascii)
def test_names_from_files_do_not_control_the_terminal(folder: Path, nasty: str) -> None:
    """The author of a file chooses the name, metric and template of a task, its prompts and paths."""
    for metadata in ({"name": nasty}, {"metric": nasty}, {"template": nasty}, {"template": nasty + ".json"}):
        (folder / "n.jsonl").write_text(json.dumps({"metadata": metadata}) + "\n" + TASK, encoding="utf-8")
        for command in ("optimize", "landscape"):
            check(*run(command, "n.jsonl", *BASE[command][2:]))
    check(*run(nasty))
    for args in (["optimize", nasty], ["optimize", "t.jsonl", "--pool", nasty], ["bench", nasty]):
        code, output = run(*args)
        check(code, output)
        assert code in (1, 2)
    (folder / "p.jsonl").write_text(
        json.dumps({"prompt": nasty, "score": 1}) + "\n" + json.dumps({"prompt": nasty, "score": 2})
    )
    check(*run("optimize", "t.jsonl", "--pool", "p.jsonl", "--dry-run"))


def test_a_warning_of_the_progress_bar_does_not_control_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The warning quotes a failed prompt and the error, which quotes the endpoint."""
    from zopo_fast.cli.commands.landscape import _warn
    from zopo_fast.runs.result import Trial

    progress = Progress(quiet=True)
    progress.phase("search")
    nasty = "".join(NASTY)
    trial = Trial(1, 0, nasty, None, (), Usage(), 0.0, None, Usage(), error=nasty)
    _warn(progress, trial)
    progress.show(trial)
    progress.close()
    check(0, capfd.readouterr().err)
