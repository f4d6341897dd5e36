"""Conversations and instructions in task files: chat, ShareGPT and Alpaca."""

from __future__ import annotations

from typing import Any

import pytest

from zopo_fast.errors import TaskError
from zopo_fast.tasks.task import Task

SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {"role": "tool", "content": "t"}
CALLS = [{"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "g", "arguments": "1"}}]
CALLED = "User: a\nAssistant: f({}), g(1)\nTool: t"
CALL = {"role": "assistant", "content": None, "tool_calls": CALLS}
PARTS = [{"type": "text", "text": "a"}]


def said(*texts: str, names: tuple[str, str] = ("user", "assistant")) -> list[dict[str, Any]]:
    return [{"role": names[i % 2], "content": text} for i, text in enumerate(texts)]


def only(path: Any, **options: Any) -> tuple[str, tuple[str, ...]]:
    (example,) = Task.load(path, examples=None, **options).train
    return example.input, example.outputs


MANY = "User: a\nAssistant: b\nUser: c"


@pytest.mark.parametrize(
    ("fields", "input", "output"),
    [
        ({"messages": said("2 + 2", "4")}, "2 + 2", "4"),
        ({"messages": said("a", "b", "c", "d")}, MANY, "d"),
        ({"messages": [{**said("a")[0], "name": "x"}, {**said("", "b")[1], "weight": 1}]}, "a", "b"),
        ({"messages": said("a", "b", names=("Human", "Model")), "id": 3}, "a", "b"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "a", "b"),
        ({"messages": [{"role": "user", "content": PARTS}, *said("", "b")[1:]]}, "a", "b"),
        ({"messages": said("a", "b", "c"), "output": "label"}, MANY, "label"),
        ({"input": said("a", "b", "c"), "output": "x"}, MANY, "x"),
        ({"input": {"messages": said("a")}, "output": said("", "x")[1:]}, "a", "x"),
        ({"messages": [*said("a"), TOOL, *said("", "x")[1:]]}, "User: a\nTool: t", "x"),
        ({"messages": [*said("a"), CALL, TOOL, *said("", "x")[1:]]}, CALLED, "x"),
        ({"messages": [SYSTEM, *said("a", "x")]}, "a", "x"),
        ({"dialogue": said("a", "x"), "id": 3}, "a", "x"),
        ({"instruction": "Add.", "input": "1 1", "output": "2"}, "Add.\n\n1 1", "2"),
        ({"instruction": "Name a colour.", "input": "", "output": "red"}, "Name a colour.", "red"),
        ({"instruction": "Name a colour.", "output": "red"}, "Name a colour.", "red"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_forms(write: Any, suffix: str, fields: dict[str, Any], input: str, output: str) -> None:
    assert only(write(f"a.{suffix}", [fields])) == (input, (output,))


def test_the_fields_of_a_conversation_can_be_named(write: Any) -> None:
    path = write("a.jsonl", [{"prompt": said("a"), "completion": said("", "x")[1:]}])
    assert only(path, input_field="prompt", output_field="completion") == ("a", ("x",))
    path = write("b.jsonl", [{"chat": said("a", "x")}])
    assert only(path, input_field="chat") == ("a", ("x",))


def test_a_common_system_message_is_left_out_with_a_note(
    write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"messages": [SYSTEM, *said(f"q{i}", f"a{i}")]} for i in range(3)]
    task = Task.load(write("a.jsonl", rows), examples=None)
    assert sorted(e.input for e in task.train) == ["q0", "q1", "q2"]
    assert caplog.messages == [
        f"{write('a.jsonl', rows)}: 3 examples without their common system message or instruction, which the "
        "prompt replaces (first: line 1)"
    ]
    del rows[2]["messages"][0]
    task = Task.load(write("a.jsonl", rows), examples=None)
    assert sorted(e.input for e in task.train) == ["q0", "q1", "q2"]
    assert "2 examples without their common system message" in caplog.text
    rows[2]["messages"].insert(0, SYSTEM)
    caplog.clear()
    rows[1]["messages"][0] = {"role": "developer", "content": "Be long."}
    task = Task.load(write("a.jsonl", rows), examples=None)
    assert sorted(e.input for e in task.train) == ["Be brief.\n\nq0", "Be brief.\n\nq2", "Be long.\n\nq1"]
    assert "3 examples with a system message or an instruction as part of the input" in caplog.text


def test_a_common_instruction_is_left_out_with_a_note(write: Any, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"instruction": "Negate.", "input": f"q{i}", "output": f"a{i}"} for i in range(3)]
    task = Task.load(write("a.jsonl", rows), examples=None)
    assert sorted(e.input for e in task.train) == ["q0", "q1", "q2"]
    assert "3 examples without their common system message or instruction" in caplog.text
    rows[2]["instruction"] = "Double."
    task = Task.load(write("a.jsonl", rows), examples=None)
    assert sorted(e.input for e in task.train) == ["Double.\n\nq2", "Negate.\n\nq0", "Negate.\n\nq1"]


def test_messages_after_the_answer_are_left_out_with_a_note(
    write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert only(write("a.jsonl", [{"messages": said("a", "x", "thanks")}])) == ("a", ("x",))
    assert "1 example with messages after the last one of the assistant" in caplog.text


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        (said("a"), "'messages' holds no message of the assistant"),
        ([{"role": "narrator", "content": "a"}], "message 1: unknown role 'narrator'"),
        ([{"role": "user", "content": 3.5}, *said("", "x")[1:]], None),
        (
            [{"role": "user", "content": None}, *said("", "x")[1:]],
            "message 1: the content must be a text, not None",
        ),
        (
            [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]},
                *said("", "x")[1:],
            ],
            "message 1: the content must be a text",
        ),
        ([SYSTEM, {"role": "assistant", "content": "x"}], "'input' is empty"),
        ([{"role": "assistant", "content": "x"}], "'input' is empty"),
        ([*said("a"), CALL], "message 2: a call of a tool cannot be the output"),
        ([], "no field 'input'"),
        ("text", "no field 'input'"),
    ],
)
def test_conversations_that_are_none(write: Any, messages: Any, says: str | None) -> None:
    path = write("a.jsonl", [{"messages": messages}])
    if says is None:
        assert only(path)[1] == ("x",)
        return
    with pytest.raises(TaskError, match=says) as caught:
        Task.load(path)
    assert caught.value.line == 1


def test_a_conversation_as_the_input_needs_an_output(write: Any) -> None:
    path = write("a.jsonl", [{"input": said("a"), "ideal": "x"}])
    with pytest.raises(TaskError, match=r"no field 'output'; .* Did you mean --output-field ideal\?"):
        Task.load(path)
    assert only(path, output_field="ideal") == ("a", ("x",))


def test_two_conversations_are_no_choice(write: Any) -> None:
    with pytest.raises(TaskError, match="no field 'input'; the fields are: 'chosen', 'rejected'"):
        Task.load(write("a.jsonl", [{"chosen": said("a", "x"), "rejected": said("a", "y")}]))
