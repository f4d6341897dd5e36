"""Embed a pool of millions with Ray Data, on the cores and GPUs of one machine or of a cluster.

    pip install "zopo-fast[ray,data,embed]"
    python ray_data_embed.py prompts.parquet vectors.npy --embedder st:all-MiniLM-L6-v2 --actors 4 --gpus 1
    zopo-fast optimize task.jsonl --pool prompts.parquet --embeddings vectors.npy ...

Each actor loads the model once and embeds batch after batch. Ray replaces an actor that dies and repeats its
batch. Rows are written where their number says, and each must arrive exactly once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from pyarrow import parquet

import zopo_fast as zf
from zopo_fast.prompts import embedders

ROWS = 16_384  # of a row group


class Embedder:
    """Actor that embeds batches with an embedder of zopo_fast, by its name."""

    def __init__(self, name: str) -> None:
        self._embedder = embedders.resolve(name, cache=False)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the rows of a batch with their embeddings."""
        vectors = asyncio.run(self._embedder.embed([str(text) for text in batch["prompt"]]))
        return {"row": batch["row"], "embedding": np.asarray(vectors, dtype=np.float16)}


def embed(
    pool: zf.Pool, out: Path, embedder: Any = Embedder, *arguments: Any, batch: int = 256, **how: Any
) -> None:
    """Embed a pool into a `.npy` or `.parquet` file, one row a prompt, in the order of the pool.

    Args:
        pool: the prompts.
        out: file to write; it appears when it is complete.
        embedder: class whose objects map a batch of columns `row` and `prompt` to `row` and `embedding`.
        arguments: of the class.
        batch: prompts in a batch.
        how: settings of `Dataset.map_batches`, such as `compute` and `num_gpus`.

    Raises:
        RuntimeError: a row is missing or arrived twice.
    """
    table = pa.table({"row": np.arange(len(pool)), "prompt": pa.array(pool.prompts)})
    blocks = [table.slice(start, 16 * batch) for start in range(0, len(pool), 16 * batch)]
    rows = ray.data.from_arrow(blocks).map_batches(
        embedder, fn_constructor_args=arguments, batch_size=batch, **how
    )
    part = out.with_name(out.name + ".part.npy")
    Z, arrived = None, np.zeros(len(pool), dtype=np.int64)
    try:
        for done in rows.iter_batches(batch_size=None, batch_format="numpy"):
            vectors = np.stack(done["embedding"])
            if Z is None:
                shape = (len(pool), vectors.shape[1])
                Z = np.lib.format.open_memmap(part, "w+", dtype=vectors.dtype, shape=shape)
            Z[done["row"]] = vectors
            np.add.at(arrived, done["row"], 1)
        if Z is None or (arrived != 1).any():
            row = int(np.argmax(arrived != 1))
            raise RuntimeError(f"row {row} arrived {arrived[row]} times, not once")
        Z.flush()
        if out.suffix == ".npy":
            os.replace(part, out)
        else:
            _write_parquet(pool, Z, out)
    finally:
        part.unlink(missing_ok=True)


def _write_parquet(pool: zf.Pool, Z: np.ndarray[Any, Any], out: Path) -> None:
    """Write prompts and embeddings, a row group at a time."""
    kind = pa.list_(pa.from_numpy_dtype(Z.dtype), Z.shape[1])
    schema = pa.schema({"prompt": pa.string(), "embedding": kind})
    part = out.with_name(out.name + ".part")
    with parquet.ParquetWriter(part, schema) as writer:
        for start in range(0, len(pool), ROWS):
            end = min(start + ROWS, len(pool))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(Z[start:end].ravel()), type=kind)
            writer.write_table(pa.table([pa.array(pool.prompts[start:end]), vectors], schema=schema))
    os.replace(part, out)


def main() -> None:
    """Parse the command line and embed a pool."""
    parser = argparse.ArgumentParser(description="Embed a pool with Ray Data.")
    parser.add_argument("pool", type=Path, help=".txt, .jsonl or .parquet")
    parser.add_argument("out", type=Path, help=".npy or .parquet")
    parser.add_argument("--embedder", default="local", help="as for zopo-fast optimize")
    parser.add_argument("--actors", type=int, default=1, help="models at work at a time")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs of one actor")
    parser.add_argument("--batch", type=int, default=256, help="prompts in a batch")
    given = parser.parse_args()
    compute = ray.data.ActorPoolStrategy(size=given.actors)
    pool = zf.Pool.load(given.pool)
    embed(pool, given.out, Embedder, given.embedder, batch=given.batch, compute=compute, num_gpus=given.gpus)


if __name__ == "__main__":
    main()
