"""Pool: reading, normalisation, merging, writing."""

from __future__ import annotations

import copy
import json
import math
import pickle
import random
import re
import sys
import unicodedata
from pathlib import Path

import pytest

from zopo_fast.errors import ConflictingScoreError, OutputError, PoolError
from zopo_fast.prompts.pool import Pool, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  two   blanks\t here ", "two blanks here"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("\n\n first  line \n  kept   indentation  \n\nlast\n\n", "first line\n  kept indentation\n\nlast"),
        ("no\u00a0break", "no break"),
        (" \t\n ", ""),
        ("Case", "Case"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected
    assert normalise(expected) == expected


def test_texts_that_are_normal_already_take_the_short_way_and_others_do_not() -> None:
    """Every kind of white space and some letters, against the definition of the normal form."""
    spaces = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
    rng = random.Random(0)
    for _ in range(3000):
        letters = rng.choices(["a", "b", "\u00e9", "e\u0301", " ", *spaces], k=rng.randint(0, 7))
        text = "".join(letters)
        lines = re.sub("\r\n?|[\x0b\x0c\x85\u2028\u2029]", "\n", unicodedata.normalize("NFC", text)).split(
            "\n"
        )
        single = [re.sub(r"(?<=\S)[^\S\n]+(?=\S)", " ", line.rstrip()) for line in lines]
        assert normalise(text) == "\n".join(single).strip(), repr(text)


def test_txt_is_merged_in_order_with_counts(tmp_path: Path) -> None:
    path = tmp_path / "pool.txt"
    path.write_bytes("\ufeffSay yes.\r\n\r\nsay yes.\r\n Say   yes. \r\nLast {x}\r\n".encode())
    pool = Pool.load(path)
    assert pool.prompts == ("Say yes.", "say yes.", "Last {x}")
    assert pool.counts == (2, 1, 1)
    assert pool.scores == {}
    assert len(pool) == 3


def test_jsonl_takes_strings_and_objects(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    rows: list[object] = ["A", {"prompt": "B\n  b", "score": 1, "count": 3, "note": "x"}]
    rows += [{"prompt": " A ", "score": 0.25}, {"prompt": "A", "score": None}, "one\u2028two"]
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    pool = Pool.load(path)
    assert pool.prompts == ("A", "B\n  b", "one\ntwo")
    assert pool.counts == (3, 3, 1)
    assert pool.scores == {0: 0.25, 1: 1.0}


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{broken", "JSON"),
        ("[1]", "prompt"),
        ("3", "prompt"),
        ('{"text": "x"}', "prompt"),
        ('{"prompt": 3}', "string"),
        ('{"prompt": null}', "string"),
        ('{"prompt": "  "}', "empty"),
        ('""', "empty"),
        ('"half \\ud800"', "surrogate"),
        ('{"prompt": "x", "score": NaN}', "finite"),
        ('{"prompt": "x", "score": -Infinity}', "finite"),
        ('{"prompt": "x", "score": 1e999}', "finite"),
        ('{"prompt": "x", "score": 1' + "0" * 400 + "}", "finite"),
        ('{"prompt": "x", "score": "1"}', "finite"),
        ('{"prompt": "x", "score": true}', "finite"),
        ('{"prompt": "x", "score": [1]}', "finite"),
        ('{"prompt": "x", "count": 0}', "count"),
        ('{"prompt": "x", "count": 1.5}', "count"),
        ('{"prompt": "x", "count": true}', "count"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, word: str) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text(f'"good"\n\n{line}\n', encoding="utf-8")
    with pytest.raises(PoolError, match=word) as caught:
        Pool.load(path)
    assert caught.value.path == path
    assert caught.value.line == 3
    assert f"{path}:3: " in str(caught.value)


def test_two_scores_of_one_prompt_conflict(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text('{"prompt": "A", "score": 0.5}\n{"prompt": " A", "score": 0.75}\n', encoding="utf-8")
    with pytest.raises(ConflictingScoreError) as caught:
        Pool.load(path)
    for part in ("'A'", "0.5", "0.75", f"{path}:2"):
        assert part in str(caught.value)
    path.write_text('{"prompt": "A", "score": 0.5}\n{"prompt": " A", "score": 0.5}\n', encoding="utf-8")
    assert Pool.load(path).scores == {0: 0.5}


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="No such file"):
        Pool.load(tmp_path / "missing.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(PoolError, match="cannot be read"):
        Pool.load(tmp_path / "folder.txt")
    (tmp_path / "empty.txt").write_text(" \n\n")
    with pytest.raises(PoolError, match="no prompts"):
        Pool.load(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"good\n\xe9t\xe9\n")
    with pytest.raises(PoolError, match="UTF-8") as caught:
        Pool.load(tmp_path / "latin.txt")
    assert caught.value.line == 2
    (tmp_path / "pool.csv").write_text("a\nb\n")
    with pytest.raises(PoolError, match=r"\.jsonl"):
        Pool.load(tmp_path / "pool.csv")


def test_save_round_trips(tmp_path: Path) -> None:
    pool = Pool.from_texts(["b\nb", "é", "b\nb", "c"], [None, 0.1 + 0.2, 1 / 3, None])
    assert pool.counts == (2, 1, 1)
    path = tmp_path / "pool.jsonl"
    path.write_text("old")
    pool.save(path)
    again = Pool.load(path)
    assert again == pool
    assert again.scores == {0: 1 / 3, 1: 0.1 + 0.2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["pool.jsonl"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pool.jsonl"
    Pool.from_texts(["old"]).save(path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        Pool.from_texts(["new"]).save(path)
    assert Pool.load(path).prompts == ("old",)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pool.jsonl"]


def test_save_refuses_other_suffixes(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"\.jsonl"):
        Pool.from_texts(["a"]).save(tmp_path / "pool.txt")
    with pytest.raises(OutputError):
        Pool.from_texts(["a"]).save(tmp_path / "missing" / "pool.jsonl")


def test_scores_belong_to_texts() -> None:
    assert Pool.from_texts(["a", "b", "a"], {2: 0.5}).scores == {0: 0.5}
    with pytest.raises(PoolError, match="2 scores for 1"):
        Pool.from_texts(["a"], [1.0, 2.0])
    with pytest.raises(PoolError, match="no text 7"):
        Pool.from_texts(["a"], {7: 1.0})
    with pytest.raises(PoolError, match=r"text 0: .*finite"):
        Pool.from_texts(["a"], [math.nan])
    with pytest.raises(PoolError, match=r"text 1: .*empty"):
        Pool.from_texts(["a", " "])
    with pytest.raises(PoolError, match="not one string"):
        Pool.from_texts("abc")
    with pytest.raises(ConflictingScoreError):
        Pool.from_texts(["a", "a"], [1.0, 2.0])


def test_require() -> None:
    pool = Pool.from_texts(["a", "b"])
    assert pool.require(2) is pool
    with pytest.raises(PoolError, match="at least 2"):
        Pool.from_texts(["a", " a"]).require()


def test_a_pool_built_directly_is_checked() -> None:
    scores = {0: 1.0}
    pool = Pool(("a",), (1,), scores)
    scores[0] = 2.0
    assert pool.scores == {0: 1.0}
    assert hash(pool) == hash(Pool(("a",), (1,)))
    assert copy.deepcopy(pool) == pickle.loads(pickle.dumps(pool)) == pool
    for prompts, counts, given in [
        (("a", "a"), (1, 1), {}),
        (("a ",), (1,), {}),
        (("",), (1,), {}),
        (("a",), (0,), {}),
        (("a",), (1, 1), {}),
        (("a",), (1,), {1: 0.0}),
        (("a",), (1,), {0: math.inf}),
    ]:
        with pytest.raises(PoolError):
            Pool(prompts, counts, given)
