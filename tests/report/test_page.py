"""Page of a report: hostile texts stay texts, nothing of the machine is in it, its size is bounded."""

from __future__ import annotations

import base64
import gzip
import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_tools import HOSTILE, make_run

import zopo_fast as zf
from zopo_fast.report import facts
from zopo_fast.report.page import MAX_BYTES, report_body, report_html, static_files
from zopo_fast.runs.inspection import ScoredAnswer
from zopo_fast.runs.result import HeldOut, Interval
from zopo_fast.scoring.intervals import score_interval

ROOT = Path(__file__).parents[2]


class Elements(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def shape(page: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the distinct tags with the names of their attributes."""
    return sorted({(tag, tuple(sorted(attributes))) for tag, attributes in Elements(page).tags})


def data_of(page: str) -> Any:
    found = re.search(r'class="report-data" data-encoding="(\w+)">([^<]*)</script>', page)
    assert found is not None
    encoding, text = found.groups()
    return json.loads(gzip.decompress(base64.b64decode(text)) if encoding == "gzip" else text)


def page_of(folder: Path) -> str:
    with zf.Study.open(folder) as study:
        return report_html([study])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("hostile") / "<b>run"
    examples = [zf.Example(f"{text} {i}", ("yes",)) for i, text in enumerate(HOSTILE * 2)]
    prompts = [f"{text} {i}" for i, text in enumerate(HOSTILE * 3)]
    make_run(folder, prompts, examples=examples, wrong=HOSTILE[1] + "x" * 1_000_000, name=HOSTILE[0])
    return page_of(folder)


def test_hostile_texts_add_no_element_and_no_attribute(hostile: str, tmp_path: Path) -> None:
    make_run(tmp_path / "plain")
    plain = page_of(tmp_path / "plain")
    assert set(shape(hostile)) <= set(shape(plain))
    assert len([1 for tag, _ in Elements(hostile).tags if tag == "script"]) == 3  # data, Vega, ours
    assert all(not name.startswith("on") for _, names in shape(hostile) for name in names)


def test_hostile_texts_are_shown(hostile: str) -> None:
    rows = data_of(hostile)["prompts"]
    texts = " ".join(row[2] for row in rows)
    assert "<script>window.stolen = 1</script>" in texts
    assert "{{ 7 * 7 }}" in texts
    assert "\\u202etxet" in texts
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]", texts)


def test_a_long_answer_is_cut_with_its_length(hostile: str) -> None:
    answers = data_of(hostile)["answers"]
    longest = max(len(each["answers"][0]["text"]) for each in answers)
    assert longest < 5000
    assert any("characters)" in each["answers"][0]["text"] for each in answers)
    assert len(hostile.encode()) < MAX_BYTES


def test_the_policy_allows_the_own_scripts_and_no_request(hostile: str) -> None:
    tags = Elements(hostile).tags
    policy = next(a["content"] for tag, a in tags if tag == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert policy.count("'sha256-") == 3
    assert "unsafe" not in policy
    for tag, attributes in tags:
        assert not {"src", "action", "srcset", "data"} & attributes.keys(), tag
        assert attributes.get("href", "#").startswith("#")


def test_the_page_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    page = page_of(tmp_path / "run")
    assert str(tmp_path) not in page
    assert str(Path.home()) not in page


def test_settings_lose_folders_and_headers(tmp_path: Path) -> None:
    study = zf.Study("s", ["a", "b"])
    study.options = {
        "pool_file": str(tmp_path / "pool.jsonl"), "headers": {"X-Key": "secret"}, "out": "/x", "seed": 3,
        "prior": ["/home/me/runs/a"], "base_url": "https://host.example/v1",
        "lists": "C:\\Users\\me\\lists",
    }  # fmt: skip
    assert facts.settings(study) == {
        "pool_file": "pool.jsonl", "seed": "3", "prior": "a", "base_url": "https://host.example/v1",
        "lists": "lists",
    }  # fmt: skip


def test_ten_thousand_long_prompts_fit_into_the_page() -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(0x4E00, 0x9FA5, 300))) for _ in range(10_000)]  # incompressible
    embeddings = rng.normal(size=(10_000, 16)).astype(np.float32)
    scores = {int(i): float(s) for i, s in zip(rng.permutation(10_000)[:200], rng.random(200), strict=True)}
    study = zf.Study.of_search("large", texts, embeddings, scores)
    page = report_html([study])
    assert len(page.encode()) <= MAX_BYTES
    data = data_of(page)
    assert len(data["prompts"]) == 10_000
    assert len(data["charts"]["map"]["layer"][0]["data"]["values"]) <= 1200


def test_a_study_without_a_score_has_a_page(tmp_path: Path) -> None:
    study = zf.Study("empty", ["one", "two"])
    page = report_html([study])
    assert "No prompt of 2 has a score yet." in page
    assert data_of(page)["charts"] == {}


def test_the_winner_is_compared_with_the_incumbent(tmp_path: Path) -> None:
    result = make_run(tmp_path)
    page = page_of(tmp_path)
    assert "Changes to the incumbent" in page
    assert "seed prompt" not in page.partition("<script")[0]
    assert "<ins>" in page
    assert f"{result.heldout[0].score:.3f}" in page
    row = next(row for row in data_of(page)["prompts"] if row[1] == result.best_index)
    assert row[0] == 1
    assert row[3] == pytest.approx(result.best_score)
    assert {row[9] for row in data_of(page)["prompts"]} == {"incumbent", "start", "expected improvement"}


def test_several_runs_are_compared(tmp_path: Path) -> None:
    for name in ("first", "second"):
        make_run(tmp_path / name, seed=len(name))
    with zf.Study.open(tmp_path / "first") as first, zf.Study.open(tmp_path / "second") as second:
        page = report_html([first, second])
    assert "Comparison of 2 runs" in page
    assert "1. first" in page
    assert "2. second" in page
    runs = {row["run"] for row in data_of(page)["charts"]["best"]["data"]["values"]}
    assert runs == {"1. first", "2. second"}


def test_a_body_for_a_server_has_no_script_and_no_style(tmp_path: Path) -> None:
    make_run(tmp_path)
    with zf.Study.open(tmp_path) as study:
        tags = Elements(report_body([study])).tags
    assert "style" not in {tag for tag, _ in tags}
    assert [a.get("type") for tag, a in tags if tag == "script"] == ["application/json"]
    assert all("style" not in attributes for _, attributes in tags)  # a strict policy refuses them


def test_the_scripts_of_vega_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOPO_CACHE_DIR", str(tmp_path))
    static_files.cache_clear()
    made = static_files()["vega.js"]
    assert [path.suffix for path in tmp_path.iterdir()] == [".js"]
    static_files.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", type("No", (), {}))  # makes nothing
    assert static_files()["vega.js"] == made
    static_files.cache_clear()
    assert b"</script" not in made.lower()


def test_an_interval_of_shares_is_wilsons() -> None:
    # Newcombe (1998), table I: 81 of 263 has the score interval 0.2553 to 0.3662.
    low, high = score_interval([1.0] * 81 + [0.0] * 182) or (0, 0)
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert score_interval([1.0]) is None
    low, high = score_interval([0.2, 0.4, 0.6]) or (0, 0)
    assert (low + high) / 2 == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("ahead", "says"),
    [
        ((0.2, 0.1, 0.3), "The gain is significant: use the winner."),
        ((-0.2, -0.3, -0.1), "The loss is significant: keep the prompt in use."),
        ((0.1, -0.1, 0.3), "keep the prompt in use for now. About 40 held-out examples would show"),
        ((0.1, 0.0, 0.2), "Too close to call with 10 examples: keep the prompt in use for now."),
        ((0.0, -0.1, 0.1), "Too close to call with 10 examples: keep the prompt in use for now."),
    ],
)
def test_the_comparison_ends_in_advice(ahead: tuple[float, float, float], says: str) -> None:
    row = HeldOut("seed prompt", "p", None, 0.5, (0.5,) * 10, Interval(*ahead))
    assert facts.advice(row).endswith(says) or says in facts.advice(row)
    assert ("About" in facts.advice(row)) == ("About" in says)


def test_answers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    study = zf.Study.of_search("s", ["a", "b"], None, {0: 1.0, 1: 0.5})
    study.incumbent = 1

    def answers(index: int) -> list[ScoredAnswer]:
        scores = ([1.0, 1.0, 0.0, None], [0.0, 1.0, 1.0, 1.0])[index]
        return [
            ScoredAnswer("train", i, "in", ("out",), "text", "text", score, None, is_cut=i < 2)
            for i, score in enumerate(scores)
        ]

    monkeypatch.setattr(study, "answers", answers)
    assert facts.count_answers(facts.answer_rows(study, 100)) == (1, 1, 2, 4)
    page = report_html([study])
    assert "2 of its 4 answers end at the length limit" in page
    assert "higher than the incumbent on 1 examples, and lower on 1" in page


def test_the_head_names_model_metric_and_date(tmp_path: Path) -> None:
    make_run(tmp_path)
    with zf.Study.open(tmp_path) as study:
        assert study.began is not None
        assert study.version == zf.__version__
        study.run["model"] = {"model": "Small.gguf:98362432:8597a9397a0b:last"}
        study.began = 1_796_000_000.0
        assert facts.subtitle(study) == [
            "30 Nov 2026", "model Small.gguf", "metric exact_match", "24 train and 12 held-out examples"
        ]  # fmt: skip
        study.run["model"] = {"model": "llama3:8b"}
        assert "model llama3:8b" in facts.subtitle(study)


def test_texts_are_compared_word_by_word() -> None:
    old, new = "Name the capital of the country.", "Name the capital city of the country."
    assert [(c.kind, c.text.strip()) for c in facts.changes(old, new) if c.kind != "same"] == [
        ("added", "city")
    ]
    kinds = [c.kind for c in facts.changes("one two three", "completely other words here")]
    assert kinds == ["removed", "same", "added"]
    assert facts.changes("a " * 5000, "b") == []


def test_the_assets_travel_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["scikit-build"]["wheel"]["packages"]["zopo_fast"] == "zopo_fast"
    excluded = project["tool"]["scikit-build"]["wheel"]["exclude"]
    assert not any("report" in pattern for pattern in excluded)
    assert {"report.css", "report.js", "vega.js"} == set(static_files())
