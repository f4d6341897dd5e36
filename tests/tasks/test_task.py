"""Task files of every format, their errors with line numbers, the split, and the metric."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from zopo_fast.errors import ConfigError, InputError, TaskError
from zopo_fast.tasks.task import Example, Task

EXAMPLES = Path(__file__).parents[2] / "examples"
EVERYTHING: dict[str, Any] = {"examples": None}


def numbered(n: int, **more: Any) -> list[dict[str, Any]]:
    return [{"input": f"in {i}", "output": f"out {i}", **more} for i in range(n)]


def as_set(task: Task) -> set[tuple[str, tuple[str, ...]]]:
    return {(example.input, example.outputs) for example in task.train}


def test_an_example_takes_a_text_for_its_only_output() -> None:
    assert Example("2 + 2", "four") == Example("2 + 2", ("four",))  # type: ignore[arg-type]
    assert Example("2 + 2", ["4", "four"]).outputs == ("4", "four")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 \\+ 2"):
        Example("2 + 2", ())


# ---- formats ---------------------------------------------------------------------------------------


def test_jsonl_with_bom_crlf_blank_lines_and_lists(write: Any) -> None:
    path = write(
        "task.jsonl",
        b'\xef\xbb\xbf{"input": "a\\u2028b", "output": ["x", "y", "x"]}\r\n\r\n'
        + '{"input": "c\u2028d", "output": 1.50, "other": null}\r{"input": "e", "output": "f"}'.encode(),
    )
    task = Task.load(path, **EVERYTHING)
    assert as_set(task) == {("a\u2028b", ("x", "y")), ("c\u2028d", ("1.50",)), ("e", ("f",))}
    assert (task.name, task.metric, task.template) == ("task", "exact_match", "instruction")
    assert (task.heldout, task.demonstrations) == ((), ())


def test_the_first_line_may_hold_metadata_which_arguments_override(write: Any) -> None:
    metadata = {"name": "mine", "metric": "f1", "template": "chat.json", "licence": 3}
    path = write("task.jsonl", [{"metadata": metadata}, *numbered(2)])
    task = Task.load(path, **EVERYTHING)
    assert (task.name, task.metric, len(task.train)) == ("mine", "f1", 2)
    assert task.template == str(path.parent / "chat.json")
    task = Task.load(path, metric="contains", template="system", **EVERYTHING)
    assert (task.metric, task.template) == ("contains", "system")
    # An example with a field of that name is an example.
    path = write("task.jsonl", [{"metadata": "x", "input": "a", "output": "b"}])
    assert as_set(Task.load(path, **EVERYTHING)) == {("a", ("b",))}


@pytest.mark.parametrize(("name", "tab"), [("task.csv", ","), ("task.tsv", "\t"), ("TASK.CSV", ",")])
def test_csv_and_tsv(write: Any, name: str, tab: str) -> None:
    rows = [
        ["output", "note", " input "],
        ['"[""x"", 2]"', "", '"two\r\nlines"'],
        ["[no list", "", "a;b"],
        ["", "", " "],
        ["4", "", "2 + 2"],
    ]
    path = write(name, "\ufeff" + "\r\n".join(tab.join(row) for row in rows))
    expected = {("two\r\nlines", ("x", "2")), ("a;b", ("[no list",)), ("2 + 2", ("4",))}
    assert as_set(Task.load(path, **EVERYTHING)) == expected


def test_very_long_cells_and_lines_are_read_and_the_csv_limit_is_restored(write: Any) -> None:
    before, long = csv.field_size_limit(), "x" * 300_000
    assert as_set(Task.load(write("a.csv", f"input,output\n{long},y\n"), **EVERYTHING)) == {(long, ("y",))}
    path = write("a.jsonl", [{"input": long, "output": "y"}])
    assert as_set(Task.load(path, **EVERYTHING)) == {(long, ("y",))}
    assert csv.field_size_limit() == before


def test_field_names_can_be_chosen(write: Any) -> None:
    fields: dict[str, Any] = {"input_field": "question", "output_field": "answer", **EVERYTHING}
    rows = [{"question": "q", "answer": "a", "input": 3}]
    for path in (
        write("a.jsonl", rows),
        write("a.json", rows),
        write("a.csv", "question,answer,input\nq,a,3\n"),
    ):
        assert as_set(Task.load(path, **fields)) == {("q", ("a",))}


@pytest.mark.parametrize(
    ("name", "example", "expected", "metric"),
    [
        ("antonyms", {"input": "up", "output": "down"}, ("up", ("down",)), "induction_match"),
        ("sum", {"input": "0 47", "output": 47, "x": 0}, ("0 47", ("47",)), "induction_match"),
        (
            "synonyms",
            {"input": "big", "output": ["large", "huge"]},
            ("big", ("large", "huge")),
            "induction_contains",
        ),
        (
            "rhymes",
            {"input": "ice", "output": "rice", "other_rhymes": ["mice", "rice"], "rhyme_group": "AY S"},
            ("ice", ("rice", "mice")),
            "induction_match",
        ),
        (
            "translation_en-de",
            {"input": "place", "output": "Platz", "possible_translations": ["", "Ort", "Platz"]},
            ("place", ("Platz", "Ort")),
            "induction_match",
        ),
        (
            "common_concept",
            {"concept": "go up", "items": ["lifts", "kites"], "all_common_concepts": ["rise", "go up"]},
            ("lifts, kites", ("go up", "rise")),
            "induction_f1",
        ),
        ("taxonomy_animal", {"input": "cat, cup", "output": "cat"}, ("cat, cup", ("cat",)), "induction_set"),
    ],
)
def test_the_instruction_induction_format(
    write: Any, name: str, example: dict[str, Any], expected: tuple[str, tuple[str, ...]], metric: str
) -> None:
    document = {"metadata": {"num_examples": 1}, "examples": {"1": example}}
    task = Task.load(write(f"{name}.json", document), **EVERYTHING)
    assert (task.name, task.metric, as_set(task)) == (name, metric, {expected})
    document["metadata"] = {"metric": "contains"}
    assert Task.load(write(f"{name}.json", document), **EVERYTHING).metric == "contains"


def test_cause_and_effect_comes_in_both_orders_always_with_the_cause_as_output(write: Any) -> None:
    pairs = {str(i): {"cause": f"Cause {i}.", "effect": f"Effect {i}."} for i in range(60)}
    path = write("cause_and_effect.json", {"examples": pairs})
    task = Task.load(path, **EVERYTHING)
    first = 0
    for example in task.train:
        (cause,) = example.outputs
        effect = cause.replace("Cause", "Effect")
        orders = [f"Sentence 1: {cause} Sentence 2: {effect}", f"Sentence 1: {effect} Sentence 2: {cause}"]
        first += orders.index(example.input) == 0
    assert 10 < first < 50
    assert Task.load(path, **EVERYTHING) == task
    assert {e.input for e in Task.load(path, seed=1, **EVERYTHING).train} != {e.input for e in task.train}


# ---- malformed files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "line", "says"),
    [
        ("a.jsonl", b"", None, "empty"),
        ("a.jsonl", b"\xef\xbb\xbf\n \n", None, "empty"),
        ("a.csv", b"input,output\n", None, "no examples"),
        ("a.jsonl", b'{"metadata": {}}\n', None, "no examples"),
        ("a.json", b'{"examples": {}}', None, "no examples"),
        ("a.txt", b"x", None, "formats"),
        ("a.jsonl", b'{"input": "a", "output": "b"}\n\n{"input": \n', 3, "not JSON"),
        ("a.jsonl", b'{"input": "a", "output": "b"}\r\n["a", "b"]\r\n', 2, "JSON object"),
        ("a.jsonl", b'{"input": "a", "output": NaN}', 1, "NaN"),
        ("a.jsonl", b"[" * 100_000, 1, "not JSON"),
        ("a.jsonl", b'{"input": "a", "output": "b"}\n{"input": "\xff"}', 2, "not UTF-8"),
        (
            "a.jsonl",
            b'{"question": "a", "output": "b"}',
            1,
            "no field 'input'; the fields are: 'question', 'output'",
        ),
        ("a.jsonl", b'{"input": " ", "output": "b"}', 1, "'input' is empty"),
        ("a.jsonl", b'{"input": "a", "output": []}', 1, "empty list"),
        ("a.jsonl", b'{"input": ["a"], "output": "b"}', 1, "'input' must be a text"),
        ("a.jsonl", b'{"input": "a", "output": {"b": 1}}', 1, "'output' must be a text"),
        ("a.jsonl", b'{"input": "a", "output": null}', 1, "'output' is null; remove the example"),
        ("a.jsonl", b'{"input": null, "output": "a"}', 1, "'input' is null"),
        ("a.jsonl", b'{"input": "\\ud800", "output": "b"}', 1, "surrogate"),
        ("a.jsonl", b'{"input": "a", "output": "b", "split": "bonus"}', 1, "eval, not 'bonus'"),
        ("a.jsonl", b'{"input": "a", "output": "b", "split": ["train"]}', 1, "'split'"),
        ("a.jsonl", b'{"metadata": {"metric": ["f1"]}}\n{"input": "a", "output": "b"}', None, "'metric'"),
        ("a.jsonl", b'{"metadata": "f1"}\n{"input": "a", "output": "b"}', None, "'metadata'"),
        ("a.csv", b"question,output\na,b\n", 1, "no column 'input'; the columns are: 'question', 'output'"),
        ("a.csv", b"input,output,input\na,b,c\n", 1, "more than one column 'input'"),
        ("a.csv", b'input,output\n"a\nb",c\nd\n', 4, "1 cells where the header has 2"),
        ("a.csv", b"input,output\na,b,c\n", 2, "3 cells"),
        ("a.csv", b'input,output\na,b\n"c,d\n', 3, "malformed"),
        ("a.csv", b"input,output\n ,b\n", 2, "'input' is empty; remove the example"),
        ("a.csv", b'input,output\na,"[""b"", []]"\n', 2, "must be a text"),
        ("a.json", b'{"examples":\n [}', 2, "not JSON"),
        ("a.json", b'{"data": []}', None, "examples"),
        ("a.json", b"3", None, "examples"),
        ("a.json", b'{"examples": {"7": {"input": "a"}}}', None, "example 7: no field 'output'"),
        ("a.json", b'{"examples": {"7": "a"}}', None, "example 7: must be an object"),
        ("a.json", b'{"examples": {"7": {"items": "a", "all_common_concepts": []}}}', None, "lists"),
        ("a.json", b'{"examples": {"7": {"cause": 1, "effect": null}}}', None, "'effect' is null"),
    ],
)
def test_errors_name_the_file_and_the_line(
    write: Any, name: str, content: bytes, line: int | None, says: str
) -> None:
    path = write(name, content)
    with pytest.raises(TaskError) as caught:
        Task.load(path, **EVERYTHING)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert (caught.value.path, caught.value.line) == (path, line)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no such file"):
        Task.load(tmp_path / "none.jsonl")
    with pytest.raises(TaskError, match="no such file"):
        Task.load(tmp_path / "none.xyz")
    with pytest.raises(TaskError, match="a directory"):
        Task.load(tmp_path)


# ---- the split -------------------------------------------------------------------------------------


def test_the_split_is_seeded_disjoint_and_complete(write: Any) -> None:
    path = write("a.jsonl", numbered(50))
    task = Task.load(path, demonstrations=3)
    assert (len(task.train), len(task.heldout), len(task.demonstrations)) == (20, 27, 3)
    assert len({*task.train, *task.heldout, *task.demonstrations}) == 50
    assert Task.load(path, demonstrations=3) == task
    assert set(Task.load(path, demonstrations=3, seed=1).train) != set(task.train)
    # The train examples depend on nothing else; fewer of them are a prefix.
    assert Task.load(path, examples=10, heldout=5).train == task.train[:10]
    assert Task.load(path, examples=20, heldout=5).heldout == task.heldout[:5]
    assert Task.load(path, examples=50).heldout == ()


def test_none_trains_on_all_that_are_left(write: Any) -> None:
    path = write("a.jsonl", numbered(30))
    task = Task.load(path, examples=None, heldout=8, demonstrations=2)
    assert (len(task.train), len(task.heldout), len(task.demonstrations)) == (20, 8, 2)
    assert len({*task.train, *task.heldout, *task.demonstrations}) == 30
    assert len(Task.load(path, examples=None).train) == 30


@pytest.mark.parametrize(
    ("total", "options", "sizes"),
    [
        (128, {}, (20, 92, 16)),
        (24, {"examples": 12}, (12, 6, 6)),
        (24, {"examples": 12, "heldout": 8}, (12, 8, 4)),
        (24, {"examples": 20}, (20, 2, 2)),
        (24, {"examples": None}, (16, 0, 8)),
        (60, {"examples": None, "heldout": 10}, (34, 10, 16)),
    ],
)
def test_a_search_over_demonstrations_sets_a_reserve_aside(
    write: Any, total: int, options: dict[str, Any], sizes: tuple[int, int, int]
) -> None:
    path = write("a.jsonl", numbered(total))
    task = Task.load(path, demonstrations="search", **options)
    assert (len(task.train), len(task.heldout), len(task.reserve)) == sizes
    assert task.demonstrations == ()
    assert len({*task.train, *task.heldout, *task.reserve}) == total
    assert Task.from_dict(task.to_dict()) == task
    plain = Task.load(path, **options)
    assert plain.reserve == ()
    assert "reserve" not in plain.to_dict()  # the identity of studies without
    if options.get("examples", 20) is not None:
        assert plain.train == task.train  # scored on the same examples


def test_a_reserve_is_of_the_train_side(write: Any) -> None:
    rows = [
        *({"input": f"train {i}", "output": "x", "split": "train"} for i in range(9)),
        *({"input": f"test {i}", "output": "x", "split": "test"} for i in range(6)),
    ]
    task = Task.load(write("a.jsonl", rows), examples=5, demonstrations="search")
    assert (len(task.reserve), len(task.heldout)) == (4, 6)
    assert {example.input[:5] for example in task.reserve} == {"train"}


def test_too_few_examples_for_a_reserve_are_refused(write: Any) -> None:
    path = write("a.jsonl", numbered(11))
    with pytest.raises(TaskError, match="demonstrations=2 requested, 1 left of 11"):
        Task.load(path, examples=10, demonstrations="search")
    with pytest.raises(ConfigError, match="demonstrations"):
        Task.load(path, demonstrations="some")  # type: ignore[arg-type]


def test_an_example_keeps_the_split_it_names(write: Any) -> None:
    rows = [
        *({"input": f"train {i}", "output": "x", "split": "Train"} for i in range(6)),
        *({"input": f"test {i}", "output": "x", "split": "test" if i % 2 else "heldout"} for i in range(6)),
        *({"input": f"free {i}", "output": "x", "split": ""} for i in range(8)),
    ]
    path = write("a.jsonl", rows)
    for examples, heldout, demonstrations in [(None, None, 0), (4, None, 3), (10, 8, 2), (None, 10, 1)]:
        task = Task.load(path, examples=examples, heldout=heldout, demonstrations=demonstrations)
        for side, wrong in (("train", "test"), ("heldout", "train"), ("demonstrations", "test")):
            assert not [e for e in getattr(task, side) if e.input.startswith(wrong)]
        parts = (*task.train, *task.heldout, *task.demonstrations)
        assert len(set(parts)) == len(parts)
        assert len(task.demonstrations) == demonstrations
        assert examples is None or len(task.train) == examples
        assert heldout is None or len(task.heldout) == heldout
    # Examples with a split come before the others.
    assert {e.input[:5] for e in Task.load(path, examples=6).train} == {"train"}
    assert {e.input[:4] for e in Task.load(path, examples=6, heldout=6).heldout} == {"test"}
    # Surplus train examples become the demonstrations, so that no held-out example is lost.
    task = Task.load(path, examples=4, demonstrations=2)
    assert {e.input[:5] for e in task.demonstrations} == {"train"}
    assert len(task.heldout) == 14


@pytest.mark.parametrize(
    "wanted",
    [
        {"examples": 11},
        {"examples": 9, "heldout": 2},
        {"examples": 9, "demonstrations": 2},
        {"examples": None, "heldout": 10},
        {"examples": None, "heldout": 11},
        {"examples": None, "demonstrations": 11},
    ],
)
def test_too_few_examples(write: Any, wanted: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match=r"too few examples.* of 10 in all"):
        Task.load(write("a.jsonl", numbered(10)), **wanted)


@pytest.mark.parametrize("wrong", [{"examples": 0}, {"heldout": -1}, {"demonstrations": -1}])
def test_numbers_out_of_range(write: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Task.load(write("a.jsonl", numbered(30)), **wrong)


def test_exact_duplicates_are_dropped_and_contradictions_kept(write: Any) -> None:
    rows = [
        {"input": "a", "output": ["x", "y"], "split": "train"},
        {"input": "a", "output": ["y", "x"], "split": "test"},
        {"input": "a", "output": "z"},
    ]
    task = Task.load(write("a.jsonl", rows), examples=None)
    assert as_set(task) == {("a", ("x", "y")), ("a", ("z",))}
    assert task.heldout == ()


# ---- the metric ------------------------------------------------------------------------------------


def equal(answer: str, references: list[str]) -> float:
    return float(answer in references)


class Lenient:
    async def __call__(self, answer: str, references: list[str], input: str) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("metric", "name"), [("f1", "f1"), ("mine:score", "mine:score"), (equal, "equal"), (Lenient(), "Lenient")]
)
def test_a_metric_is_a_name_or_a_function(write: Any, metric: Any, name: str) -> None:
    task = Task("t", (Example("a", "b"),), metric=metric)
    assert task.metric is metric
    assert task.metric_name == name
    loaded = Task.load(write("a.jsonl", numbered(2)), metric=metric, **EVERYTHING)
    assert loaded.metric is metric


@pytest.mark.parametrize("metric", [None, 3, b"f1", ["f1"]])
def test_any_other_metric_is_refused(metric: Any) -> None:
    with pytest.raises(ConfigError, match=r"metric: expected a name or a function .* got "):
        Task("t", (Example("a", "b"),), metric=metric)


def test_an_empty_metric_is_that_of_the_file_and_no_way_around_its_check(write: Any) -> None:
    path = write("a.jsonl", [{"metadata": {"metric": "f1"}}, *numbered(2)])
    assert Task.load(path, metric="", **EVERYTHING).metric == "f1"
    path = write("b.jsonl", [{"metadata": {"metric": "subprocess:call"}}, *numbered(2)])
    with pytest.raises(TaskError, match="names a function as the metric"):
        Task.load(path, metric="", **EVERYTHING)


# ---- examples of the package -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "least", "metric"),
    [
        ("sentiment", 120, "contains"),
        ("rhymes", 120, "contains"),
        ("cause_and_effect", 100, "contains"),
        ("headlines", 120, "exact_match"),
    ],
)
def test_the_examples_load_with_enough_to_hold_out(name: str, least: int, metric: str) -> None:
    path = EXAMPLES / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    task = Task.load(path, examples=None)
    assert (task.name, task.metric) == (name, metric)
    assert len(task.train) == len(lines) - 1 >= least  # none is a duplicate
    assert len({example.input for example in task.train}) == len(task.train)


def test_the_examples_are_balanced_and_consistent() -> None:
    sentiment = Task.load(EXAMPLES / "sentiment.jsonl", examples=None).train
    labels = [example.outputs for example in sentiment]
    assert labels.count(("positive",)) == labels.count(("negative",)) == len(labels) / 2
    assert not [e for e in sentiment if "positive" in e.input or "negative" in e.input]

    headlines = Task.load(EXAMPLES / "headlines.jsonl", examples=None).train
    topics = [example.outputs[0] for example in headlines]
    assert {topics.count(topic) for topic in topics} == {len(topics) / 4}

    rhymes = Task.load(EXAMPLES / "rhymes.jsonl", examples=None).train
    assert not [e for e in rhymes if e.input in e.outputs or not e.input.isalpha()]

    causes = Task.load(EXAMPLES / "cause_and_effect.jsonl", examples=None).train
    first = sum(e.input.startswith(f"Sentence 1: {e.outputs[0]} Sentence 2: ") for e in causes)
    second = sum(e.input.endswith(f" Sentence 2: {e.outputs[0]}") for e in causes)
    assert first == second == len(causes) / 2
