"""Pickles and states made by version 0.1.0, whose modules had other names, load and continue alike."""

from __future__ import annotations

import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast._utils import moved
from zopo_fast.runs.result import HeldOut, Interval

BEFORE = Path(__file__).parents[1] / "golden" / "before_move"
Z = np.load(BEFORE / "embeddings.npy")

needs_numpy_core = pytest.mark.skipif(
    importlib.util.find_spec("numpy._core") is None, reason="the arrays were pickled by NumPy 2"
)


def load(name: str) -> Any:
    return pickle.loads((BEFORE / f"{name}.pickle").read_bytes())


@needs_numpy_core
@pytest.mark.parametrize(
    ("search", "pending", "asked"), [("improvement", [6], [5, 2, 0]), ("gradient", [0], [6, 2, 10])]
)
def test_optimizer(search: str, pending: list[int], asked: list[int]) -> None:
    opt = load(f"zopo_{search}")
    assert isinstance(opt, zf.Zopo)
    assert opt.pending == pending
    assert opt.best == (11, 0.2644556164741516)
    assert [opt.ask() for _ in range(3)] == asked


def test_state() -> None:
    opt = zf.Zopo.from_state(Z, json.loads((BEFORE / "state.json").read_text()))
    assert opt.ask() == 6


@needs_numpy_core
def test_process() -> None:
    gp = load("gp")
    assert isinstance(gp, zf.GaussianProcess)
    assert isinstance(gp.kernel, zf.NTK)
    assert gp.posterior(Z[5]).mean == pytest.approx(-0.11014565662224601, rel=1e-12)


@needs_numpy_core
def test_batch() -> None:
    batch = load("batch")
    assert isinstance(batch, zf.ZopoBatch)
    config = zf.ZopoConfig(budget=6, initial=3, seed=1, search="gradient")
    np.testing.assert_array_equal(batch.ask(), zf.ZopoBatch([Z, Z + 1], config).ask())


def test_plain_data() -> None:
    assert load("config") == zf.ZopoConfig(region=1024, initial=40)  # the defaults then
    assert load("runconfig") == zf.RunConfig(
        search=zf.ZopoConfig(region=1024, initial=40), initial=10, race_first=4
    )
    assert load("infinite") == zf.InfiniteNTK(2)
    assert load("pool") == zf.Pool.from_texts(["a", "b"])
    assert load("usage") == zf.Usage()


FORMER = [
    ("batch", zf.ZopoBatch),
    ("config", zf.ZopoConfig),
    ("config", type(zf.ZopoConfig.official().official_settings)),
    ("device", zf.to_device),
    ("device", zf.cuda_status),
    ("endpoint", zf.ClientConfig),
    ("errors", zf.TaskError),
    ("gp", zf.GaussianProcess),
    ("gp", zf.Posterior),
    ("infinite", zf.InfiniteNTK),
    ("kernel", zf.NTK),
    ("limits", zf.Limits),
    ("limits", zf.Prices),
    ("optimizer", zf.Zopo),
    ("pool", zf.Pool),
    ("result", HeldOut),
    ("result", Interval),
    ("result", zf.Result),
    ("result", zf.Trial),
    ("run", zf.optimize),
    ("run", zf.optimize_sync),
    ("run_config", zf.RunConfig),
    ("task", zf.Example),
    ("task", zf.Task),
    ("threads", zf.set_num_threads),
    ("usage", zf.Usage),
]


@pytest.mark.parametrize(("module", "value"), FORMER, ids=lambda part: getattr(part, "__name__", part))
def test_former_name(module: str, value: Any) -> None:
    assert pickle.loads(f"czopo_fast.{module}\n{value.__name__}\n.".encode()) is value


def test_every_former_module_is_tested() -> None:
    assert {module for module, _ in FORMER} == {*moved.MOVED, "errors", "gp"}


def test_other_names_are_still_missing() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'zopo_fast\.nonsense'"):
        importlib.import_module("zopo_fast.nonsense")
    with pytest.raises(AttributeError, match="nonsense"):
        pickle.loads(b"czopo_fast.gp\nnonsense\n.")
    with pytest.raises(AttributeError, match="nonsense"):
        pickle.loads(b"czopo_fast.optimizer\nnonsense\n.")


def test_a_fresh_process_loads_them() -> None:
    """No module of today is imported yet, and there is one finder however often it is installed."""
    script = (
        "import pickle, sys, zopo_fast\n"
        "from zopo_fast._utils import moved\n"
        "moved.install()\n"
        "assert sum(finder is moved.MovedModules for finder in sys.meta_path) == 1\n"
        "assert sys.meta_path[-1] is moved.MovedModules\n"
        "print(type(pickle.loads(open(sys.argv[1], 'rb').read())).__module__)\n"
    )
    command = [sys.executable, "-c", script, str(BEFORE / "config.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("zopo_fast\n", "")
