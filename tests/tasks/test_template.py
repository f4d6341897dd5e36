"""Templates: rendered messages, and placeholders in prompts and inputs that must stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from zopo_fast.errors import ConfigError
from zopo_fast.tasks import template
from zopo_fast.tasks.task import Example

SHOTS = (Example("1 + 1", ("2", "two")), Example("2 + 3", ("5",)))
# Texts that a careless renderer expands.
tricky = st.lists(
    st.sampled_from(
        ["{input}", "{prompt}", "[INPUT]", "[PROMPT]", "{demonstrations}", "{", "}", "\\1", "%s", "a"]
    )
).map("".join)


def test_the_instruction_template_is_the_published_one() -> None:
    rendered = template.resolve("instruction").render("Add.", "4 + 4")
    assert rendered == [{"role": "user", "content": "Instruction: Add.\n\nInput: 4 + 4\n\nOutput:"}]


def test_instruction_demonstrations_are_blocks_of_input_and_output() -> None:
    rendered = template.resolve("instruction").render("Add.", "4 + 4", SHOTS)
    assert [message["role"] for message in rendered] == ["user"]
    assert rendered[0]["content"] == (
        "Instruction: Add.\n\nInput: 1 + 1\n\nOutput: 2\n\n"
        "Input: 2 + 3\n\nOutput: 5\n\nInput: 4 + 4\n\nOutput:"
    )


def test_the_system_template_keeps_prompt_and_input_apart() -> None:
    assert template.resolve("system").render("Add.", "4 + 4", SHOTS[:1]) == [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": "1 + 1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "4 + 4"},
    ]


@pytest.mark.parametrize("name", ["user", "chat"])
def test_the_user_template_shows_demonstrations_as_turns(name: str) -> None:
    assert template.resolve(name).render("Add.", "4 + 4", SHOTS[1:]) == [
        {"role": "user", "content": "Add.\n\n2 + 3"},
        {"role": "assistant", "content": "5"},
        {"role": "user", "content": "Add.\n\n4 + 4"},
    ]


@given(prompt=tricky, input=tricky, shot=tricky)
def test_substitution_is_a_single_pass(prompt: str, input: str, shot: str) -> None:
    shots = [Example(shot, (shot + "!",))]
    (message,) = template.resolve("instruction").render(prompt, input, shots)
    assert message["content"] == (
        f"Instruction: {prompt}\n\nInput: {shot}\n\nOutput: {shot}!\n\nInput: {input}\n\nOutput:"
    )
    system, asked, answer, user = template.resolve("system").render(prompt, input, shots)
    assert (system["content"], asked["content"]) == (prompt, shot)
    assert (answer["content"], user["content"]) == (shot + "!", input)


@given(st.dictionaries(st.text("ab{}", min_size=1, max_size=3), st.text("ab{}")), st.text("ab{}"))
def test_fill_does_not_expand_inserted_values(values: dict[str, str], text: str) -> None:
    expected, i = "", 0
    while i < len(text):
        fitting = [key for key in values if text.startswith(key, i)]
        key = max(fitting, key=len, default="")
        expected += values[key] if key else text[i]
        i += len(key) or 1
    assert template.fill(text, values) == expected


def write(path: Path, document: object) -> str:
    path.write_text(json.dumps(document), encoding="utf-8-sig")
    return str(path)


@pytest.mark.parametrize(("prompt", "input"), [("{prompt}", "{input}"), ("[PROMPT]", "[INPUT]")])
def test_a_custom_template_is_read_from_a_file(tmp_path: Path, prompt: str, input: str) -> None:
    messages = [
        {"role": "system", "content": f"Rules: {prompt}"},
        {"role": "user", "content": f"<{input}>"},
        {"role": "assistant", "content": "It is"},
    ]
    for document in (messages, {"messages": messages}):
        custom = template.resolve(write(tmp_path / "mine.json", document))
        assert custom.render("{input}", "[PROMPT]", SHOTS[1:]) == [
            {"role": "system", "content": "Rules: {input}"},
            {"role": "user", "content": "<2 + 3>"},
            {"role": "assistant", "content": "5"},
            {"role": "user", "content": "<[PROMPT]>"},
            {"role": "assistant", "content": "It is"},
        ]


def test_a_custom_template_may_lay_out_its_demonstrations(tmp_path: Path) -> None:
    document = {
        "messages": [{"role": "user", "content": "{demonstrations}{prompt} {input}"}],
        "demonstration": "{input} = {output};",
    }
    (message,) = template.resolve(write(tmp_path / "mine.json", document)).render("Add:", "4 + 4", SHOTS)
    assert message["content"] == "1 + 1 = 2;2 + 3 = 5;Add: 4 + 4"


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([], "at least one message"),
        ({"messages": "{prompt} {input}"}, "needs a list"),
        ("text", "needs a list"),
        ([{"role": "user"}], "message 1"),
        ([{"role": "user", "content": 3}], "message 1"),
        ([{"role": "robot", "content": "{prompt}{input}"}], "'robot'"),
        ([{"role": "user", "content": "{prompt}"}], "{input}"),
        ([{"role": "user", "content": "{input}"}], "{prompt}"),
        (
            {"messages": [{"role": "user", "content": "{prompt}{input}"}], "demonstration": "x"},
            "demonstrations",
        ),
        (
            {"messages": [{"role": "user", "content": "{prompt}{input}"}], "demonstration": 1},
            "must be a text",
        ),
    ],
)
def test_a_malformed_template_file_is_refused(tmp_path: Path, document: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        template.resolve(write(tmp_path / "mine.json", document))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json.*No such file"):
        template.resolve(str(tmp_path / "none.json"))
    for content in (b"{", b"\xff\xfe", b"[" * 100_000):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(ConfigError, match="not a JSON file"):
            template.resolve(str(tmp_path / "bad.json"))


def test_an_unknown_name_lists_the_templates() -> None:
    with pytest.raises(ConfigError, match=r"'nope'.*chat, instruction, system, user"):
        template.resolve("nope")
    own = template.Template("own", (("user", "{prompt}{input}"),))
    assert template.resolve(own) is own
