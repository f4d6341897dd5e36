"""Help of the commands: groups, the most used options first, nothing lost; quick to load."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from zopo_fast.cli.group import COMMANDS, cli, load_command

# Every option that a release has had under this name keeps it.
OPTIONS = {
    "optimize": "config examples heldout demonstrations metric template input-field output-field seed "
    "resume resume-or-start unanswered pool generate how kind lists from incumbent budget initial "
    "racing no-racing calls "
    "race-error race-first race-batch score-range target prefer-short past-perfect compare-random "
    "no-comparison official embedder embedding-base-url embedding-key-env embedding-batch "
    "embedding-body local model base-url concurrency temperature max-tokens "
    "timeout max-wait requests-per-minute tokens-per-minute body headers judge-model judge-base-url "
    "judge-key-env judge-max-tokens judge-body generate-max-tokens generate-body "
    "rubric limit-calls limit-tokens limit-cost limit-seconds cache no-cache cache-size "
    "price-in price-out dry-run out quiet help",
    "generate": "config examples heldout demonstrations metric template input-field output-field seed "
    "number how kind lists from local model base-url concurrency temperature max-tokens timeout max-wait "
    "requests-per-minute tokens-per-minute body headers generate-max-tokens generate-body out help",
    "landscape": "config examples heldout demonstrations metric template input-field output-field seed pool "
    "embedder embedding-base-url embedding-key-env embedding-batch embedding-body "
    "local model base-url concurrency temperature max-tokens timeout max-wait "
    "requests-per-minute tokens-per-minute body headers judge-model judge-base-url "
    "judge-key-env judge-max-tokens judge-body rubric "
    "unanswered max-failed price-in price-out dry-run out name quiet help",
    "check": "config examples heldout demonstrations metric template input-field output-field seed "
    "prompt at-least all unanswered local model base-url concurrency temperature max-tokens timeout max-wait "
    "requests-per-minute tokens-per-minute body headers judge-model judge-base-url "
    "judge-key-env judge-max-tokens judge-body rubric limit-calls limit-tokens limit-cost limit-seconds "
    "cache no-cache cache-size price price-in price-out dry-run json quiet help",
    "report": "out help",
    "show": "prompt full json help",
    "bench": "quick seconds seed out list help",
    "serve": "data host port token-file embedder embedding-base-url embedding-key-env embedding-batch "
    "embedding-body models max-body max-pool max-studies max-pending "
    "max-jobs log-prompts access-log help",
    "sweep": "processes ray retries limit-calls limit-tokens limit-cost limit-seconds dry-run out quiet help",
}
MOST_USED = [
    "pool",
    "generate",
    "incumbent",
    "model",
    "base-url",
    "metric",
    "budget",
    "dry-run",
    "out",
    "resume",
]


def shown(command: str) -> dict[str, list[str]]:
    """Return the options in the help of a command by group."""
    text = CliRunner().invoke(cli, [command, "--help"]).output
    groups: dict[str, list[str]] = {}
    for line in text.splitlines():
        if title := re.fullmatch(r"(\w[\w ]*):", line):
            groups[title[1]] = []
        elif line.startswith("  -"):
            names = line[2:].split("  ")[0]
            groups[next(reversed(groups))] += re.findall(r"--([\w-]+)", names)
    return groups


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_shows_every_option_once(command: str) -> None:
    names = [name for group in shown(command).values() for name in group]
    assert len(names) == len(set(names))
    assert set(OPTIONS[command].split()) <= set(names)


def test_the_help_of_optimize_begins_with_the_most_used_options() -> None:
    groups = shown("optimize")
    assert list(groups) == ["Most used", "Task", "Pool", "Search", "Model", "Limits", "Output", "Other"]
    assert groups["Most used"] == MOST_USED
    assert all(groups.values())


@pytest.mark.parametrize("command", ["optimize", "generate", "serve"])
def test_the_help_of_each_option_is_a_phrase_and_then_the_default(command: str) -> None:
    for each in load_command(command).params:
        if isinstance(each, click.Option):
            text = str(each.help)
            assert re.fullmatch(r"[A-Z@$][^\[\]]*\.(  \[default: [^\[\]]+\])?", text), text


def test_the_help_omits_bounds_that_are_technical() -> None:
    text = " ".join(CliRunner().invoke(cli, ["optimize", "--help"]).output.split())
    assert "Seconds for one attempt of a call. [default: 60; x>0]" in text
    assert "Prompts scored in total, the incumbent and the initial ones included. [default: 50; x>=1]" in text


def test_the_version_loads_no_command() -> None:
    code = (
        "import sys; from zopo_fast.cli import cli; cli(['--version'], standalone_mode=False); "
        "print(sorted(n for n in sys.modules if n.startswith('zopo_fast.cli.') or n in "
        "('numpy', 'aiohttp', 'tenacity', 'tqdm', 'asyncio')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "['zopo_fast.cli.group']"
