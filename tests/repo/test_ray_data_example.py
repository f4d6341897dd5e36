"""The Ray Data example: every prompt is embedded once and in order, although an actor is killed."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.prompts.embedding_file import read_embeddings

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

# Ray leaves sockets and files to the end of the process, and warns of its own deprecations and defaults.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_data_embed.py"
TEXTS, DIMENSION, KILLED_AT = 20_000, 8, 12_000


@pytest.fixture
def example() -> ModuleType:
    specification = importlib.util.spec_from_file_location("ray_data_embed", EXAMPLE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, logging_level="error",
        log_to_driver=False, configure_logging=False,
    )  # fmt: skip
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    yield
    ray.shutdown()


def test_an_actor_killed_midway_costs_no_row_and_repeats_none(
    tmp_path: Path, example: ModuleType, cluster: None
) -> None:
    killed_at, dimension = KILLED_AT, DIMENSION

    class Stub:  # a local class: Ray sends it by value
        """Embedder that tells the texts apart, in the same way in all processes, and kills itself once."""

        def __init__(self, folder: str) -> None:
            self._marker = os.path.join(folder, "killed")

        @staticmethod
        def vector(text: str) -> Any:
            number = int(text.removeprefix("Write about the number "))
            return np.array([number // 256, number % 256] + [1.0] * (dimension - 2), dtype=np.float16)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            if killed_at in batch["row"] and not os.path.exists(self._marker):
                with open(self._marker, "w"):
                    os.kill(os.getpid(), signal.SIGKILL)
            return {"row": batch["row"], "embedding": np.stack([self.vector(t) for t in batch["prompt"]])}

    for name, count in {"vectors.parquet": TEXTS, "vectors.npy": 700}.items():
        pool = zf.Pool.from_texts([f"Write about the number {i}" for i in range(count)])
        compute = ray.data.ActorPoolStrategy(size=1)
        example.embed(pool, tmp_path / name, Stub, str(tmp_path), batch=500, compute=compute)
        assert (tmp_path / "killed").exists()
        found = read_embeddings(tmp_path / name, pool)
        assert np.array_equal(found, [Stub.vector(text) for text in pool.prompts])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "vectors.npy", "vectors.parquet"]
