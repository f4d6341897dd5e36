"""Columns of task files: suggestions where one is missing, several as the input, and placeholders."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from typing import Any

import pytest

from zopo_fast.errors import ConfigError, TaskError
from zopo_fast.tasks import template
from zopo_fast.tasks.task import Example, Task

QA = [{"question": f"q{i}?", "context": f"c{i}", "answer": f"a{i}", "id": i} for i in range(6)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("question answer", "Did you mean --input-field question --output-field answer?"),
        ("id text label", "Did you mean --input-field text --output-field label?"),
        ("prompt completion", "Did you mean --input-field prompt --output-field completion?"),
        ("sentence label idx", "Did you mean --input-field sentence --output-field label?"),
        ("source target", "Did you mean --input-field source --output-field target?"),
        (
            "premise hypothesis label",
            "Did you mean --input-field '{premise} {hypothesis}' --output-field label?",
        ),
        ("Question Answer", "Did you mean --input-field Question --output-field Answer?"),
        ("INPUT Output", "Did you mean --input-field INPUT --output-field Output?"),
        ("input answer", "Did you mean --output-field answer?"),
        ("inputt output", "Did you mean --input-field inputt?"),
        ("review sentiment", "Did you mean --input-field review --output-field sentiment?"),
        ("foo bar", None),
    ],
)
def test_an_error_lists_the_columns_and_guesses(
    write: Any, suffix: str, columns: str, says: str | None
) -> None:
    names = columns.split()
    if suffix == "csv":
        path = write("a.csv", f"{','.join(names)}\n{','.join('x' for _ in names)}\n")
    else:
        path = write("a.jsonl", [dict.fromkeys(names, "x")])
    with pytest.raises(TaskError) as caught:
        Task.load(path)
    assert ", ".join(repr(name) for name in names) in str(caught.value)
    assert ("Did you mean" in str(caught.value)) is (says is not None)
    assert says is None or str(caught.value).endswith(says)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (("Question", "answer"), "--input-field question?"),
        ((" question", "answer "), "--input-field question --output-field answer?"),
        (("{contxt} {question}", "answer"), "--input-field '{context} {question}'?"),
    ],
)
def test_a_near_miss_is_suggested(write: Any, wanted: tuple[str, str], says: str) -> None:
    with pytest.raises(TaskError) as caught:
        Task.load(write("a.jsonl", QA), input_field=wanted[0], output_field=wanted[1])
    assert str(caught.value).endswith(f"Did you mean {says}")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_several_columns_as_the_input(write: Any, name: str) -> None:
    rows = "question,context,answer\n" + "".join(
        f"{r['question']},{r['context']},{r['answer']}\n" for r in QA
    )
    path = write(name, QA if name.endswith("l") else rows)
    task = Task.load(path, input_field="{context}\n\nQ: {question} {", output_field="answer", examples=None)
    assert ("c3\n\nQ: q3? {", ("a3",)) in {(e.input, e.outputs) for e in task.train}
    assert not any(example.columns for example in task.train)


LAYOUT = {
    "messages": [
        {"role": "system", "content": "{prompt}"},
        {"role": "user", "content": "{context}|{question}"},
    ]
}


@pytest.mark.parametrize("as_text", [False, True])
def test_placeholders_of_columns_in_the_template(write: Any, as_text: bool) -> None:
    name = str(write("t.txt", "{prompt}/{context}|{question}\n") if as_text else write("t.json", LAYOUT))
    path = write("a.jsonl", QA)
    task = Task.load(path, template=name, output_field="answer", examples=3, demonstrations=1)
    example = next(e for e in (*task.train, *task.heldout) if e.outputs != ("a0",))
    i = example.outputs[0][1:]
    assert dict(example.columns) == {"context": f"c{i}", "question": f"q{i}?"}
    assert example.input == f"context: c{i}\nquestion: q{i}?"  # for metrics, judge and generation
    layout = template.resolve(task.template)
    first = "Do./" if as_text else ""
    messages = layout.render("Do.", example.input, (), example.columns)
    assert messages[-1] == {"role": "user", "content": f"{first}c{i}|q{i}?"}
    (shot,) = task.demonstrations
    k = shot.outputs[0][1:]
    messages = layout.render("Do.", example.input, [shot], example.columns)
    assert [m["content"] for m in messages[-3:]] == [f"{first}c{k}|q{k}?", f"a{k}", f"{first}c{i}|q{i}?"]


def test_a_template_given_as_a_text(write: Any) -> None:
    others = '\\boxed{B} {"x": 1} {} x_{i} x^{2} \\frac{1}{2} f{x}{y} { z } {a: b}'
    text = f"{{prompt}}\nQ: {{question}}\nNot a column: {{{{name}}}} {others}"
    task = Task.load(write("a.jsonl", QA), template=text, output_field="answer", examples=None)
    example = max(task.train, key=lambda e: e.outputs)
    assert (example.input, example.columns) == ("q5?", (("question", "q5?"),))
    (message,) = template.resolve(task.template).render("Do.", example.input, (), example.columns)
    assert message["content"] == f"Do.\nQ: q5?\nNot a column: {{name}} {others}"


def test_names_of_columns_as_spreadsheets_have_them(write: Any) -> None:
    path = write("a.csv", "Frage (DE);Größe/m;x;output\nq;1,5;2;a\n")
    text = "{prompt} {Frage (DE)} {Größe/m} \\frac{x}{2}"
    (example,) = Task.load(path, template=text, examples=None).train
    assert example.columns == (("Frage (DE)", "q"), ("Größe/m", "1,5"), ("x", "2"))
    (message,) = template.resolve(text).render("Do.", example.input, (), example.columns)
    assert message["content"] == "Do. q 1,5 \\frac2{2}"


def test_demonstrations_as_blocks_have_columns(write: Any) -> None:
    layout = {
        "messages": [{"role": "user", "content": "{prompt}\n{demonstrations}{question} ({context}):"}],
        "demonstration": "{question} ({context}): {output}\n",
    }
    name = str(write("t.json", layout))
    rows = [{"metadata": {"template": "t.json"}}, *QA]
    task = Task.load(write("a.jsonl", rows), output_field="answer", examples=2, demonstrations=2)
    assert task.template == name
    example = task.train[0]
    (message,) = template.resolve(name).render("Do.", example.input, task.demonstrations, example.columns)
    lines = [line.split() for line in message["content"].splitlines()[1:]]
    assert [line[2][:1] for line in lines[:2]] == ["a", "a"]
    for line in lines:
        i = line[0][1:-1]
        assert line[:2] == [f"q{i}?", f"(c{i}):"]


def test_the_input_may_stand_beside_columns(write: Any) -> None:
    path = write("a.csv", "input;context;output\na;c1,5;x\n")
    (example,) = Task.load(path, template="{prompt} {context} {input}", examples=None).train
    assert example == Example("a", ("x",), (("context", "c1,5"),))


def test_columns_are_inserted_in_a_single_pass() -> None:
    layout = template.resolve("{prompt} {a} {b}")
    example = Example("i", ("o",), {"a": "{b} {prompt}", "b": "{a}"})  # type: ignore[arg-type]
    (message,) = layout.render("{a}", example.input, (), example.columns)
    assert message["content"] == "{a} {b} {prompt} {a}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "{prompt} {contxt} {question}",
            "{contxt} is no column; the columns are: 'question', 'context', 'answer', 'id'. Double braces, "
            "{{contxt}}, stay in the text as single ones",
        ),
        ("{prompt} {question} {answer}", "{answer} would show the answer"),
        ("{prompt} {input}{contxt}", "{contxt} is no column"),
        ("{prompt} {question}{contxt}", "{contxt} is no column"),
        ("{prompt} {Question}", "stay in the text as single ones. Did you mean {question}?"),
    ],
)
def test_a_missing_column_is_an_error(write: Any, text: str, says: str) -> None:
    with pytest.raises(TaskError) as caught:
        Task.load(write("a.jsonl", QA), template=text, output_field="answer")
    assert says in str(caught.value)


def test_a_template_without_the_prompt_is_an_error(write: Any) -> None:
    for name in (
        "{question} {context}",
        str(write("t.txt", "{question}")),
        str(write("t.json", {"messages": []})),
    ):
        with pytest.raises(ConfigError, match=r"template .*(\{prompt\}|at least one message)"):
            Task.load(write("a.jsonl", QA), template=name, output_field="answer")


@pytest.mark.parametrize("options", [{"input_field": "{q}{c}"}, {"template": "{prompt} {q} {c}"}])
def test_an_input_of_empty_columns_is_an_error(write: Any, options: dict[str, Any]) -> None:
    rows = [{"q": "", "c": "k", "output": "x"}, {"q": " ", "c": "", "output": "y"}]
    with pytest.raises(TaskError, match="nothing stands in the columns of the input, 'q', 'c'") as caught:
        Task.load(write("a.jsonl", rows), **options)
    assert caught.value.line == 2


def test_a_column_without_a_text_is_an_error(write: Any) -> None:
    rows = [
        {"input": "a", "output": "x", "choices": ["p", "q"]},
        {"input": "b", "output": "y", "choices": None},
    ]
    path = write("a.jsonl", rows)
    with pytest.raises(TaskError, match="'choices' is null") as caught:
        Task.load(path, template="{prompt} {input} {choices}")
    assert caught.value.line == 2
    path = write("a.jsonl", rows[:1])
    (example,) = Task.load(path, template="{prompt} {input} {choices}", examples=None).train
    assert example.columns == (("choices", "p\nq"),)


def test_an_example_without_the_columns_of_the_template_is_an_error() -> None:
    layout = template.resolve("{prompt} {question}")
    with pytest.raises(ConfigError, match="an example has no column 'question'"):
        layout.render("Do.", "a")
    with pytest.raises(ConfigError, match=r"no message holds {input} \(or \[INPUT\]\) or a {column}"):
        template.resolve("{prompt} \\boxed{B}")


def test_an_example_with_columns_is_a_value_and_one_without_is_stored_as_before() -> None:
    example = Example("a", ("x",), {"context": "c"})  # type: ignore[arg-type]
    assert example == Example("a", ("x",), (("context", "c"),))
    assert len({example, Example("a", ("x",))}) == 2
    assert pickle.loads(pickle.dumps(example)) == example
    for each in (example, Example("a", ("x", "y"))):
        assert Example.from_dict(json.loads(json.dumps(each.to_dict()))) == each
    assert Example("a", ("x",)).to_dict() == {"input": "a", "outputs": ("x",)}
    assert asdict(example)["columns"] == (("context", "c"),)
    old = object.__new__(Example)  # as a pickle of a version without columns restores it
    vars(old).update(input="a", outputs=("x",))
    assert old == Example("a", ("x",))
