"""The summary and the live line of `optimize` in real terminals of two widths, and through pipes."""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cli_tools import PROMPTS, Bench, answer, serving
from pty_tools import Shown, in_terminal, program

import zopo_fast as zf
from zopo_fast._utils.columns import width
from zopo_fast.cli.optimize_runner import SUMMARY

LONG = " Read the question twice before you answer it, then say yes or no and nothing else: 日本語も読む。"
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
SETTINGS = ("--no-racing", "--no-cache", "--price-in", "1", "--price-out", "2")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Any]]:
    bench = Bench(tmp_path_factory.mktemp("terminal"))
    (bench.folder / "pool.txt").write_text("".join(p + LONG + "\n" for p in PROMPTS), encoding="utf-8")

    def slow(messages: Any) -> str:
        time.sleep(0.01)  # long enough for a few refreshes of the bar
        return answer(messages)

    with serving(reply=slow) as server:
        yield bench, server


def shown(bench: tuple[Bench, Any], columns: int, out: str, kill_at: bytes = b"", **env: str) -> Shown:
    work, server = bench
    args = [*work.optimize(server, budget=12), *SETTINGS, "--out", out]
    start = functools.partial(work.start, *args, env={"TERM": "xterm-256color", "NO_COLOR": "", **env})
    return in_terminal(start, columns, kill_at)


def summary_of(text: str) -> list[str]:
    """Return the lines from the best prompt on."""
    return text[text.index("Best prompt:") :].splitlines()


@pytest.mark.parametrize("columns", [80, 50])
def test_the_summary_fits_the_terminal_and_has_the_words_of_a_pipe(
    bench: tuple[Bench, Any], columns: int
) -> None:
    seen = shown(bench, columns, f"wide{columns}")
    assert seen.code == 0, seen.text
    raw = seen.raw.decode().replace("\r\n", "\n")
    colored = raw[raw.index("Best prompt:") :]
    assert "\x1b[32m" in colored
    lines = ESCAPE.sub("", colored).splitlines()
    assert all(width(line) <= columns for line in lines), lines
    assert seen.lines[-len(lines) :] == [line.rstrip() for line in lines]  # no line is broken by the terminal
    work, server = bench
    piped = work.run(*work.optimize(server, budget=12), *SETTINGS,
                     "--out", f"pipe{columns}", env={"COLUMNS": "50"})  # fmt: skip
    assert "\x1b" not in piped.text
    assert f"  {PROMPTS[11]} Read the question twice before you answer it, then say\n" in piped.out
    words, plain = " ".join(lines).split(), piped.out.split()
    assert [w for w in words if not re.search(r"\d", w) and "wide" not in w] == [
        w for w in plain if not re.search(r"\d", w) and "pipe" not in w
    ]
    assert max(map(width, piped.out.splitlines())) <= 80


def test_the_winner_comes_first_and_the_report_last(bench: tuple[Bench, Any]) -> None:
    lines = summary_of(shown(bench, 80, "order").text)
    starts = ("Best prompt:", "Train score:", "Held-out score:", "Against the seed prompt:", "Cost:",
              "On 7 held-out", "Stopped:", "Calls:", "Time:", "Written to order",
              "Report: order/report.html")  # fmt: skip
    places = [next(i for i, line in enumerate(lines) if line.startswith(start)) for start in starts]
    assert places == sorted(places)
    assert places[-1] == len(lines) - 1
    assert lines[1] == "  Do it in way number 11. Read the question twice before you answer it, then say"
    assert lines[2].startswith("    yes or no")


def test_the_stored_summary_has_the_same_words(bench: tuple[Bench, Any]) -> None:
    first = shown(bench, 50, "stored")
    work, server = bench
    args = [*work.optimize(server, budget=12), *SETTINGS]
    again = work.run(*args, "--out", "stored", "--resume-or-start")
    assert again.code == 0, again
    with zf.Store.open(work.folder / "stored" / "study.sqlite3") as store:
        assert again.out.startswith(store.get(SUMMARY))  # a pipe strips escape codes; the study has none
    stored = first.text[first.text.index("Best prompt:") : first.text.index("Written to")]
    assert "".join(again.out.split()).startswith("".join(stored.split()))
    assert again.out.endswith("\nWritten to stored\nReport: stored/report.html\n")


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_none_is_wanted(bench: tuple[Bench, Any], env: dict[str, str]) -> None:
    seen = shown(bench, 80, "plain" + "".join(env), **env)
    assert seen.code == 0, seen.text
    raw = seen.raw.decode()
    assert not ESCAPE.search(raw[raw.index("Best prompt:") :])


@pytest.mark.parametrize("columns", [80, 50])
def test_the_best_prompt_so_far_is_shown_below_the_bar_until_the_end(
    bench: tuple[Bench, Any], columns: int
) -> None:
    seen = shown(bench, columns, f"live{columns}")
    live = re.findall(r"Best so far \d\.\d{3}: Do it in way number \d+[^\r\n\x1b]*", seen.raw.decode())
    assert len(set(live)) >= 2
    assert all(width(line.rstrip()) < columns for line in live)
    assert all(line.rstrip().endswith("...") for line in live)
    assert "Best so far" not in seen.text
    bars = [line for line in seen.lines if "%|" in line]
    assert len(bars) == 3, seen.text  # embedding, search and comparison: no bar is left twice
    assert all(width(line) <= columns for line in seen.lines)


def test_ctrl_c_does_not_garble_the_lines(bench: tuple[Bench, Any]) -> None:
    seen = shown(bench, 80, "stop", kill_at=b"Best so far")
    assert seen.code == 130, seen.text
    assert "Stopping; press Ctrl-C again to force it." in seen.lines
    assert "Best so far" not in seen.text


WARNING = """
import logging
from zopo_fast.cli.terminal.log_lines import warning_lines
from zopo_fast.cli.terminal.progress import Progress
from zopo_fast.llm.types import Usage
from zopo_fast.runs.result import Trial
with warning_lines():
    progress = Progress(quiet=False)
    progress.phase("search")
    for number in range(1, 6):
        progress.update("search", number, 8)
        prompt = f"\\x1b[31m\\n{number} " + "long " * 50
        score = number / 10
        progress.show(Trial(number, number, prompt, score, (), Usage(), 0.0, score, Usage()))
        logging.getLogger("zopo_fast").warning("warning %d", number)
        progress.say(f"said {number}")
    progress.close()
    print("end")
"""


@pytest.mark.parametrize("columns", [80, 50])
def test_warnings_stand_in_lines_of_their_own(columns: int) -> None:
    seen = in_terminal(program(WARNING, python=[sys.executable]), columns)
    spoken = [line for n in range(1, 6) for line in (f"warning {n}", f"said {n}")]
    assert [line for line in seen.lines if "%|" not in line] == ["Scoring prompts ...", *spoken, "end"]
    assert len([line for line in seen.lines if "%|" in line]) == 1
    assert rb"Best so far 0.500: \x1b[31m 5 long" in seen.raw  # escaped
    assert b"\x1b[31m" not in seen.raw
