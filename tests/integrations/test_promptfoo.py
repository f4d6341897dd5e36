"""Configurations of promptfoo: prompts, tests and assertions read, and the winner written back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_tools import Bench, chats, serving, write_lines
from doc_tools import blocks_of

import zopo_fast as zf

yaml = pytest.importorskip("yaml", reason="needs the extra promptfoo")
from zopo_fast.integrations import promptfoo  # noqa: E402
from zopo_fast.integrations.assertions import KINDS, Assertion, cell_assertion, read_assertions, score  # noqa: E402
from zopo_fast.tasks import template  # noqa: E402

CONFIG = """\
# yaml-language-server: a comment at the top
description: Capitals

prompts:
  # the prompt in use
  - "Say in one word: {{question}}"
  - 'Answer {{ question }} for {{name}}.'
providers: [openai:gpt-4o-mini]
defaultTest:
  vars: {name: Ada}
tests:
  - vars: {question: "capital of France?"}
    assert:
      - type: icontains
        value: paris
  - vars: {question: "2 + 2?", name: Bob}
    assert:
      - {type: equals, value: 4}
"""


def write(folder: Path, text: str = CONFIG, **files: str) -> Path:
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content, encoding="utf-8")
    path = folder / "promptfooconfig.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def configuration(*cases: Any, **more: Any) -> str:
    """Return a configuration with these tests."""
    stated = {"prompts": ["Say {{q}}.", "Tell {{q}}."], "tests": list(cases), **more}
    return str(yaml.safe_dump(stated, sort_keys=False))


def case(*assertions: Any, **more: Any) -> dict[str, Any]:
    return {"vars": {"q": "x"}, "assert": list(assertions), **more}


# ---- prompts and tests -------------------------------------------------------------------------------------


def test_prompts_tests_and_defaults_become_pool_and_task(tmp_path: Path) -> None:
    found = promptfoo.load(write(tmp_path))
    assert found.pool.prompts == ("Say in one word: {{question}}", "Answer {{ question }} for {{name}}.")
    examples = {dict(each.columns)["question"]: dict(each.columns) for each in found.task.train}
    assert examples["2 + 2?"]["name"] == "Bob"
    assert examples["capital of France?"]["name"] == "Ada"
    assert found.rubric is None
    assert found.config().score_range == (0.0, 1.0)


def test_variables_are_filled_in_one_pass() -> None:
    layout = template.resolve("variables")
    columns = (("a", "{{b}}"), ("b", "2"))
    assert layout.render("{{a}} {{ b }} {{c}}!", "in", (), columns) == [
        {"role": "user", "content": "{{b}} 2 !"}
    ]  # fmt: skip
    assert layout.render("No variable.", "in", (), columns)[0]["content"] == "No variable.\n\n{{b}}\n\n2"
    messages = json.dumps([{"role": "system", "content": "Be {{b}}."}, {"role": "user", "content": "{{a}}"}])
    assert [each["content"] for each in layout.render(messages, "in", (), columns)] == ["Be 2.", "{{b}}"]
    assert layout.render("[not a list of messages] {{b}}", "", (), columns)[0]["content"].endswith("2")


def test_prompts_lie_in_files(tmp_path: Path) -> None:
    config = configuration(
        case({"type": "is-json"}),
        prompts=["file://p.txt", "file://chat.json", "file://many.csv", "Own {{q}}"],
    )
    path = write(
        tmp_path, config, p__txt="One {{q}}\nmore\n---\nTwo {{q}}\n",
        chat__json='[{"role": "user", "content": "Three {{q}}"}]',
        many__csv='prompt\n"Four {{q}}"\nFive {{q}}\n',
    )  # fmt: skip
    prompts = promptfoo.load(path).pool.prompts
    assert prompts[:2] == ("One {{q}}\nmore", "Two {{q}}")
    assert json.loads(prompts[2])[0]["content"] == "Three {{q}}"
    assert prompts[3:] == ("Four {{q}}", "Five {{q}}", "Own {{q}}")


def test_tests_lie_in_a_table(tmp_path: Path) -> None:
    table = (
        "q,__expected,__expected2,__description\nx,contains: a,not-contains:b,first\ny,exact text,,second\n"
    )
    path = write(tmp_path, configuration(tests="file://tests.csv"), tests__csv=table)
    stated = {
        dict(e.columns)["q"]: json.loads(e.outputs[0])["assert"] for e in promptfoo.load(path).task.train
    }
    assert [(each["type"], each["value"]) for each in stated["x"]] == [
        ("contains", "a"),
        ("not-contains", "b"),
    ]
    assert [(each["type"], each["value"]) for each in stated["y"]] == [("equals", "exact text")]


def test_the_split_is_that_of_other_tasks(tmp_path: Path) -> None:
    cases = [{"vars": {"q": str(i)}, "assert": [{"type": "equals", "value": "1"}]} for i in range(9)]
    found = promptfoo.load(write(tmp_path, configuration(*cases)), examples=5, seed=1)
    assert (len(found.task.train), len(found.task.heldout)) == (5, 4)


# ---- assertions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "right", "wrong"),
    [
        ("equals", "4", "4", "44"),
        ("contains", "Par", "in Paris", "in paris"),
        ("icontains", "PAR", "in Paris", "in Rome"),
        ("starts-with", "Yes", "Yes, it is", "It is: Yes"),
        ("regex", r"\d{2}", "it is 42", "it is 4"),
        ("is-json", None, '{"a": 1}', "{a: 1}"),
        ("contains-any", ["a", "b"], "xbx", "xyz"),
        ("contains-any", "a, b", "xbx", "xyz"),
        ("contains-all", ["a", "b"], "ab", "b"),
        ("icontains-any", ["a"], "A", "b"),
        ("icontains-all", ["a", "b"], "AB", "A"),
    ],
)
def test_an_assertion_holds_or_not(kind: str, value: Any, right: str, wrong: str) -> None:
    (found,) = read_assertions([{"type": kind, "value": value}], {})
    assert (found.holds(right), found.holds(wrong)) == (True, False)
    (negated,) = read_assertions([{"type": f"not-{kind}", "value": value}], {})
    assert (negated.holds(right), negated.holds(wrong)) == (False, True)


def test_values_hold_variables() -> None:
    (found,) = read_assertions([{"type": "contains", "value": "{{ city }}!"}], {"city": "Rome"})
    assert found == Assertion("contains", "Rome!", 1.0)


def test_the_score_is_the_weighted_share_or_that_of_the_threshold() -> None:
    def scored(threshold: float | None) -> float:
        stated = [
            {"type": "contains", "value": "a", "weight": 3},
            {"type": "contains", "value": "b", "weight": 1},
        ]
        return score("a", [json.dumps({"assert": stated, "threshold": threshold})])

    assert (scored(None), scored(0.75), scored(0.8)) == (0.75, 1.0, 0.0)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            configuration(case({"type": "similar", "value": "x"})),
            "test 1: the assertion 'similar' is not supported",
        ),
        (configuration(case({"type": "javascript", "value": "true"})), "'javascript'"),
        (configuration(case({"type": "regex", "value": "("})), "malformed"),
        (configuration(case({"type": "contains"})), "needs a text"),
        (configuration(case({"type": "contains", "value": "a", "weight": -1})), "weight"),
        (configuration(case()), "no assertion"),
        (
            configuration(case({"type": "llm-rubric", "value": "kind"}, {"type": "is-json"})),
            "beside other assertions",
        ),
        (configuration(case({"type": "is-json"}, options={"transform": "x"})), "'transform'"),
        (configuration({"vars": {"q": ["a", "b"]}, "assert": [{"type": "is-json"}]}), "several values"),
        (configuration(case({"type": "is-json"}), prompts=["{{ q | upper }}"]), "filters"),
        (configuration(case({"type": "is-json"}), prompts=["file://p.py"]), "only .txt"),
        (configuration(case({"type": "is-json"}), prompts=["file://none.txt"]), "cannot be read"),
        (configuration(case({"type": "is-json"}), scenarios=[{}]), "'scenarios'"),
        (configuration({"vars": "x", "assert": []}), "test 1: 'vars': expected a mapping"),
        (configuration(case({"type": "is-json"}, options=["transform"])), "'options': expected a mapping"),
        (configuration(case({"type": "is-json"}, threshold="high")), "test 1: could not convert"),
        (configuration(case({"type": "is-json"}, threshold=[1])), "test 1: float()"),
        (configuration(case(), defaultTest={"assert": {"type": "is-json"}}), "'assert': expected a list"),
        ("prompts: [", "is no YAML"),
        ("- a", "a mapping"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, config: str, says: str) -> None:
    with pytest.raises(zf.TaskError, match=r"promptfooconfig|none") as error:
        promptfoo.load(write(tmp_path, config))
    assert says in str(error.value)


def test_a_variable_that_no_test_has_is_named(tmp_path: Path) -> None:
    tests = [{"vars": {"txt": "hi"}, "assert": [{"type": "contains", "value": "hi"}]}]
    path = write(tmp_path, configuration(prompts=["Say it: {{text}}"], tests=tests))
    says = "prompt 1 has {{text}}, and no test has this variable; the tests have txt"
    with pytest.raises(zf.TaskError, match=re.escape(says)):
        promptfoo.load(path)


def test_malformed_tests_in_files_are_named(tmp_path: Path) -> None:
    path = write(
        tmp_path, configuration(tests=["file://a.jsonl", "file://b.csv"]),
        a__jsonl='["text"]\n', b__csv="q,__expected,__threshold\nx,y,high\n",
    )  # fmt: skip
    with pytest.raises(zf.TaskError, match="test 1: expected a mapping"):
        promptfoo.load(path)
    path.write_text(configuration(tests="file://b.csv"))
    with pytest.raises(zf.TaskError, match="test 1: could not convert"):
        promptfoo.load(path)


def test_a_cell_with_an_unknown_type_is_not_taken_for_a_text() -> None:
    assert cell_assertion("similar: x")["type"] == "similar"
    assert "similar" not in KINDS
    assert cell_assertion("note: it works") == {"type": "equals", "value": "note: it works"}


def test_rubrics_go_to_the_judge(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(messages: Sequence[Mapping[str, str]]) -> str:
        text = messages[-1]["content"]
        if "Criterion" not in text:
            return "hello"
        asked.append(text)
        return "Score: 7"

    found = promptfoo.load(
        write(tmp_path, configuration(case({"type": "llm-rubric", "value": "greets {{q}}"})))
    )
    check = zf.check_sync(found.task, "Say {{q}}.", answer, found.config(), at_least=0.5)
    assert check.score == 0.7
    assert "greets x" in asked[0]
    assert "hello" in asked[0]


# ---- the winner --------------------------------------------------------------------------------------------


def test_the_winner_is_inserted_and_all_else_stays(tmp_path: Path) -> None:
    path = write(tmp_path)
    winner = 'Say "it" briefly:\n{{question}} # not a comment'
    assert promptfoo.write_back(path, winner)
    text = path.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line not in CONFIG.splitlines()] == [
        '  - "Say \\"it\\" briefly:\\n{{question}} # not a comment"'
    ]
    assert set(CONFIG.splitlines()) <= set(text.splitlines())
    assert yaml.safe_load(text)["prompts"][0] == winner
    assert not promptfoo.write_back(path, winner)
    assert path.read_text(encoding="utf-8") == text


def test_a_flow_list_gets_the_winner_too(tmp_path: Path) -> None:
    path = write(tmp_path, "prompts: ['a {{q}}']  # kept\ntests: []\n")
    assert promptfoo.write_back(path, "b {{q}}")
    assert path.read_text(encoding="utf-8") == "prompts: [\"b {{q}}\", 'a {{q}}']  # kept\ntests: []\n"


@pytest.mark.parametrize("text", ["prompts: file://p.txt\n", "tests: []\n", "x: &a\n  - q\nprompts: *a\n"])
def test_a_file_that_cannot_take_the_winner_is_unchanged(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(zf.OutputError, match=r"prompts|winner"):
        promptfoo.write_back(path, "b {{q}}")
    assert path.read_text(encoding="utf-8") == text


# ---- the command and the page ------------------------------------------------------------------------------


def capitals(messages: Sequence[Mapping[str, str]]) -> str:
    """Answer correctly where the prompt asks for one word."""
    text = messages[-1]["content"]
    if "one word" not in text:
        return "I do not know"
    return "Paris" if "France" in text else "4"


def test_the_command_optimizes_writes_back_and_checks(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    path = write(tmp_path)
    pool = ["Think, then say in one word {{question}}", "Guess.", "Do it: {{question}}"]
    write_lines(tmp_path / "pool.jsonl", pool)
    with serving(capitals) as server:
        model = ["--model", "m", "--base-url", server.url, "--no-cache"]
        search = [*model, "--embedder", "endpoint:e", "--examples", "1"]
        first = bench.run("optimize", path.name, *search, "--out", "a", "--write-back", path.name)
        second = bench.run("optimize", path.name, *search, "--pool", "pool.jsonl", "--write-back", path.name)
        checked = bench.run("check", path.name, "--prompt", pool[0], "--at-least", "0.9", *model)
        failed = bench.run("check", path.name, "--prompt", "Just guess.", "--at-least", "0.9", *model)
        assert any("Just guess.\n\n" in request.body["messages"][0]["content"] for request in chats(server))
    assert first.code == 0, first
    assert "The winner is listed already in promptfooconfig.yaml" in first.out
    assert second.code == 0, second
    assert "The winner is the first prompt of promptfooconfig.yaml" in second.out
    assert yaml.safe_load(path.read_text())["prompts"] == [pool[0], *yaml.safe_load(CONFIG)["prompts"]]
    assert "# the prompt in use" in path.read_text()
    assert (checked.code, failed.code) == (0, 1), (checked, failed)


def test_a_file_that_cannot_take_the_winner_is_refused_before_any_call(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    path = write(tmp_path)
    (tmp_path / "other.yaml").write_text(configuration(case({"type": "is-json"}), prompts="one {{q}}"))
    with serving(capitals) as server:
        given = ["--model", "m", "--base-url", server.url, "--no-cache", "--embedder", "endpoint:e"]
        for name, says in (("other.yaml", "'prompts' is no list"), ("missing.yaml", "cannot be read")):
            done = bench.run("optimize", path.name, *given, "--examples", "1", "--write-back", name)
            assert done.code == 2, done
            assert says in done.err
        assert server.requests == []


def test_the_lines_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of("docs/integrations/promptfoo.md")
    path = write(tmp_path)
    monkeypatch.chdir(tmp_path)
    with serving(capitals) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        given: dict[str, Any] = {}
        exec(compile(next(b.code for b in blocks if b.language == "python"), "<page>", "exec"), given)
    assert given["result"].best_prompt in promptfoo.load(path).pool.prompts


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    with pytest.raises(zf.MissingDependencyError, match=r"zopo-fast\[promptfoo\]"):
        promptfoo.load(path)
