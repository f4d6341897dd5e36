"""`--embeddings` and Parquet pools from the command line: no embedder is called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_tools import KEY, PROMPTS, Bench, chats, read_lines, serving
from click.testing import CliRunner
from fake_server import FakeServer

from zopo_fast.cli.group import cli
from zopo_fast.runs import resume
from zopo_fast.storage.store import Store

Z = np.random.default_rng(0).normal(size=(len(PROMPTS), 5)).astype(np.float16)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    np.save(tmp_path / "z.npy", Z)
    return Bench(tmp_path)


def given(bench: Bench, server: FakeServer | str, *more: str) -> list[str]:
    """Return the arguments of a run without an embedder."""
    arguments = bench.optimize(server, *more, "--quiet")
    at = arguments.index("--embedder")
    return arguments[:at] + arguments[at + 2 :]


def asked(bench: Bench, folder: str) -> list[int]:
    return [line["index"] for line in read_lines(bench.folder / folder / "trials.jsonl")]


def write_parquet(bench: Bench, name: str, rows: range) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"prompt": [PROMPTS[i] for i in rows], "embedding": [Z[i].astype(np.float32) for i in rows]}
    parquet.write_table(pa.table(columns), bench.folder / name)


def test_files_of_embeddings_and_a_resumed_run(bench: Bench) -> None:
    write_parquet(bench, "z.parquet", range(11, -1, -1))
    write_parquet(bench, "pool.parquet", range(12))
    with serving() as server:
        pools = {"npy": ("--embeddings", "z.npy"), "rows": ("--embeddings", "z.parquet"), "pool": ()}
        for folder, more in pools.items():
            arguments = given(bench, server, "--out", folder, *more)
            if folder == "pool":
                arguments[arguments.index("pool.txt")] = "pool.parquet"
            done = bench.run(*arguments)
            assert done.code == 0, done
        assert not [r for r in server.requests if r.path.endswith("/embeddings")]
        assert asked(bench, "npy") == asked(bench, "rows") == asked(bench, "pool")
        (bench.folder / "z.npy").unlink()  # a small study holds them
        done = bench.run(*given(bench, server, "--out", "npy", "--embeddings", "z.npy"), "--resume-or-start")
        assert done.code == 0, done
        done = bench.run("optimize", "--resume", "npy", "--base-url", server.url, "--quiet")
        assert done.code == 0, done
        assert not [r for r in server.requests if r.path.endswith("/embeddings")]


def test_a_study_that_refers_to_a_file(bench: Bench) -> None:
    with serving() as server:
        done = bench.run(*given(bench, server, "--out", "run", "--embeddings", "z.npy"))
        assert done.code == 0, done
    with Store.open(bench.folder / "run" / "study.sqlite3") as store:  # as a large pool leaves it
        Zs = store.array("embeddings")
        assert Zs is not None
        store._writer.submit(("DELETE FROM arrays", ()))
        store.put(resume.EMBEDDINGS, {**resume.pool_fingerprint(Zs), "source": "z.npy"})
        store.put(resume.RESULT, None)
    (bench.folder / "z.npy").rename(bench.folder / "moved.npy")
    np.save(bench.folder / "others.npy", Z[::-1])
    with serving() as server:
        again = ("optimize", "--resume", "run", "--base-url", server.url, "--quiet")
        done = bench.run(*again)
        assert done.code == 2, done
        assert "z.npy: cannot be read: No such file" in done.err, done
        done = bench.run(*again, "--embeddings", "others.npy")
        assert done.code == 2, done
        assert "are others: give the same again" in done.err, done
        done = bench.run(*again, "--embeddings", "moved.npy")
        assert done.code == 0, done
        assert not server.requests  # the run was complete


def test_unusable_embeddings_are_reported_before_a_call(bench: Bench) -> None:
    np.save(bench.folder / "short.npy", Z[:7])
    broken = Z.copy()
    broken[3, 1] = np.nan
    np.save(bench.folder / "broken.npy", broken)
    with serving() as server:
        for more, words in {
            ("--embeddings", "short.npy"): "short.npy: 7 rows for 12 distinct prompts",
            ("--embeddings", "broken.npy"): "broken.npy: NaN or infinity in row 3",
            ("--embeddings", "gone.npy"): "gone.npy: cannot be read",
            ("--embeddings", "z.npy", "--incumbent", "Do something else."): "12 rows for 13 distinct prompts",
            ("--embeddings", "z.npy", "--embedder", "endpoint:e"): "contradict each other",
            ("--embeddings", "z.npy", "--generate", "5"): "--generate",
        }.items():
            done = bench.run(*given(bench, server, *more, "--out", "run"))
            assert done.code == 2, (more, done)
            assert words in done.err, (more, done)
            assert not (bench.folder / "run").exists()
        assert not server.requests
        for name, code in {"z.npy": 0, "short.npy": 2}.items():
            done = bench.run(*given(bench, server, "--embeddings", name, "--dry-run"))
            assert done.code == code, done


@pytest.mark.parametrize("copied", [2**28, 0])
def test_landscape_exports_the_given_embeddings(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, copied: int
) -> None:
    monkeypatch.setattr(resume, "MAX_COPIED", copied)
    monkeypatch.chdir(bench.folder)
    arguments = [
        "landscape", "task.jsonl", "--pool", "pool.txt", "--examples", "3", "--heldout", "0", "--model", "m",
        "--out", "made", "--embeddings", "z.npy", "--quiet", "--no-cache",
    ]  # fmt: skip
    with serving() as server:
        done = CliRunner().invoke(cli, [*arguments, "--base-url", server.url], env={"OPENAI_API_KEY": KEY})
        assert done.exit_code == 0, done.output
        assert len(chats(server)) == len(server.requests) == 36
    assert np.array_equal(np.load(bench.folder / "made" / "task.npy"), Z)
