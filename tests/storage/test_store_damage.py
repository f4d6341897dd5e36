"""Damaged study files: detected when opened; intact rows are saved, damaged ones never pass for intact."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from zopo_fast import errors
from zopo_fast.llm.types import Answer, Usage
from zopo_fast.prompts.pool import Pool
from zopo_fast.storage import salvage as store_salvage
from zopo_fast.storage.store import Event, Store

ENTRIES = 300
CONFIG = {"options": list(range(20))}
POOL = Pool.from_texts([f"Do it in way number {i}." for i in range(40)])
EVENTS = [Event(i + 1, "score", {"prompt": i % 40, "score": i / ENTRIES}) for i in range(ENTRIES)]
ANSWERS = [Answer(f"answer {i} " + "words " * 40, Usage(i, 1, 1), "stop") for i in range(ENTRIES)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "study.sqlite3"
    with Store.create(path, CONFIG, POOL) as store:
        for event, answer in zip(EVENTS, ANSWERS, strict=True):
            store.add_answer(b"key", "model", answer)
            store.append(event.kind, event.data)
    return path


@pytest.fixture
def path(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sound, tmp_path / "study.sqlite3"))


def refused(path: Path) -> str:
    before = path.read_bytes()
    with pytest.raises(errors.StoreDamagedError) as caught:
        Store.open(path)
    assert path.read_bytes() == before, "the damaged file must not change"
    said = str(caught.value)
    assert said.startswith(f"{path}: the file is damaged")
    assert "\n" not in said
    return said


def saved(path: Path, said: str) -> tuple[list[Event], list[Answer], Pool | None]:
    """Return what was salvaged, after checking the report."""
    target = path.with_name("study.salvaged.sqlite3")
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []
    with Store.open(target) as store:
        events = list(store.events())
        answers = [store.answer(i) for numbers in store.answers().values() for i in numbers]
        pool = store.pool()
        prompts = 0 if pool is None else len(pool)
        assert store.config == CONFIG
    assert f"Saved to {target}: 0 trials, {len(answers)} answers, {len(events)} entries of the log" in said
    assert f"{prompts} prompts; replace the damaged file by it to resume" in said
    assert events == EVENTS[: len(events)]
    assert set(answers) <= set(ANSWERS)
    return events, answers, pool


def changed(path: Path, where: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(where)
        file.write(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: changed(path, 0, bytes(16)),  # magic bytes
        lambda path: changed(path, 0, bytes(100)),  # the header
        lambda path: changed(path, 0, b"\xff" * 4096),  # header and table of contents
    ],
)
def test_damage_at_the_start_loses_nothing(path: Path, damage: Callable[[Path], None]) -> None:
    damage(path)
    events, answers, pool = saved(path, refused(path))
    assert (events, answers, pool) == (EVENTS, ANSWERS, POOL)


def pages(path: Path, table: str) -> list[int]:
    """Offsets of the pages that hold the rows of a table."""
    with sqlite3.connect(path) as connection:
        found = connection.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0]
        assert found
    connection.close()
    data = path.read_bytes()
    mark = {"answers": b'{"text": "answer', "events": b'{"prompt": '}[table]
    return [
        at for at in range(4096, len(data), 4096) if data[at : at + 1] == b"\x0d" and mark in data[at:][:4096]
    ]


def test_damage_in_the_middle_loses_only_the_rows_there(path: Path) -> None:
    there = pages(path, "answers")
    assert len(there) > 8
    changed(path, there[len(there) // 2], random.Random(0).randbytes(4096))
    events, answers, pool = saved(path, refused(path))
    assert (events, pool) == (EVENTS, POOL)
    assert len(ANSWERS) - 30 < len(answers) < len(ANSWERS)
    assert answers[0] == ANSWERS[0]
    assert answers[-1] == ANSWERS[-1]  # from both sides of the gap


def test_the_log_is_kept_up_to_its_first_gap(path: Path) -> None:
    there = pages(path, "events")
    assert len(there) > 3
    changed(path, there[1], bytes(4096))
    events, answers, pool = saved(path, refused(path))
    assert 10 < len(events) < len(EVENTS) // 2
    assert (answers, pool) == (ANSWERS, POOL)


def test_a_single_changed_digit_is_detected(path: Path) -> None:
    """SQLite itself accepts the changed score."""
    before = b'"score": 0.5}'
    at = path.read_bytes().index(before)
    changed(path, at, before.replace(b"0.5", b"0.7"))
    said = refused(path)
    assert "checksum of 1 rows of its events" in said
    events, answers, _ = saved(path, said)
    assert len(events) == 150
    assert answers == ANSWERS


def test_bytes_that_are_not_utf_8(path: Path) -> None:
    changed(path, path.read_bytes().index(b"answer 7 "), b"\xff\xfe\xfd")
    said = refused(path)
    events, answers, _ = saved(path, said)
    assert events == EVENTS
    assert answers == [answer for answer in ANSWERS if not answer.text.startswith("answer 7 ")]


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file(path: Path, share: float) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(int(size * share))
    _, answers, pool = saved(path, refused(path))
    assert pool == POOL
    assert 0 < len(answers) < len(ANSWERS)


def test_random_damage_is_detected_or_harmless(path: Path, sound: Path) -> None:
    """Opening raises a StoreError, or every value is unchanged."""
    rng = random.Random(1)
    size, noticed = sound.stat().st_size, 0
    for _ in range(16):
        shutil.copy(sound, path)
        for _ in range(rng.choice([1, 1, 20])):
            changed(path, rng.randrange(size), rng.randbytes(rng.choice([1, 8, 600])))
        path.with_name("study.salvaged.sqlite3").unlink(missing_ok=True)
        try:
            with Store.open(path) as store:
                assert list(store.events()) == EVENTS
                assert [store.answer(i) for i in store.answers()[b"key"]] == ANSWERS
                assert (store.config, store.pool()) == (CONFIG, POOL)
        except errors.StoreError as error:
            noticed += 1
            if "replace the damaged" in str(error):
                saved(path, str(error))
    assert noticed > 8


def test_nothing_to_salvage(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(50_000))
    assert refused(path).endswith("Nothing could be saved")
    path.write_bytes(b"SQLite format 3\0" + bytes(84))
    with pytest.raises(errors.StoreError):
        Store.open(path)
    assert [p.name for p in path.parent.iterdir()] == ["study.sqlite3"]


def test_lost_settings_are_reported(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE study SET value = '{}' WHERE name = 'config'")
    connection.close()
    assert refused(path).endswith("the settings are lost, so the study cannot be resumed")


def test_a_salvaged_file_is_not_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(path, path.read_bytes().index(b'"score": 0.5}'), b'"score": 0.6}')
    copies: list[Path] = []

    def full(_: Path, target: Path) -> None:
        copies.append(target)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store_salvage.shutil, "copyfile", full)
        assert "Nothing could be saved ([Errno 28] No space left on device)" in refused(path)
    assert copies
    assert [p.name for p in path.parent.iterdir()] == ["study.sqlite3"]
    saved(path, refused(path))
    before = path.with_name("study.salvaged.sqlite3").read_bytes()
    assert "holds what was saved from it before" in refused(path)
    assert path.with_name("study.salvaged.sqlite3").read_bytes() == before


def test_damage_in_the_write_ahead_log_shortens_the_log(path: Path, tmp_path: Path) -> None:
    """Of the entries after the last checkpoint a prefix is left, as after a loss of power."""
    more = [Event(ENTRIES + i + 1, "score", {"prompt": i, "score": 0.5}) for i in range(50)]
    target = tmp_path / "copy.sqlite3"
    with Store.open(path) as store:
        for event in more:
            store.append(event.kind, event.data)
            store.sync(durable=False)
        for name in ("", "-wal"):
            shutil.copyfile(f"{path}{name}", f"{target}{name}")
    log = Path(f"{target}-wal")
    changed(log, log.stat().st_size // 2, b"\xff" * 8)
    with Store.open(target) as store:
        events = list(store.events())
    assert events == [*EVENTS, *more][: len(events)]
    assert ENTRIES < len(events) < ENTRIES + 50
