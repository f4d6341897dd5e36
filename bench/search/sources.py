"""Scores of real models, read from a folder named by the user.

- paraphrases/NAME.json: `task`, `models`, `prompts` (m texts), `accuracy` (m x models); a prompt is scored in
  one call. From arXiv 2401.00595, CDLA-Permissive-2.0.
- blocks/NAME.json: `dataset`, `model`, `examples_in_a_block`, `blocks` (m x blocks, null where not scored); a
  call scores one block of examples. From arXiv 2504.16005, Apache-2.0.

NAME.npy beside each holds the embeddings, (m, d). The texts of the prompts are neither read nor kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zopo_fast.errors import InputError

from .replay import Array, Landscape


class Source(NamedTuple):
    """Origin of scores, as results name it."""

    origin: str
    licence: str


SOURCES = {
    "paraphrases": Source("arXiv 2401.00595", "CDLA-Permissive-2.0"),
    "blocks": Source("arXiv 2504.16005 (CAPO)", "Apache-2.0"),
    "simulation": Source("simulated, with the components of variance of the blocks", "none"),
    "simulation, alike": Source("simulated, with examples of one difficulty", "none"),
    "landscapes": Source("this repository, bench/landscapes", "that of the repository"),
}
MIN_PROMPTS = 3


def paraphrases(folder: Path) -> list[Landscape]:
    """Read FOLDER/paraphrases: a landscape "TASK / MODEL" for every task and model.

    Returns:
        Landscapes with scores (m, 1): one call scores a prompt in full.

    Raises:
        InputError: the folder holds no such file, or a file is damaged; names the file.
    """
    found = []
    for path, document, Z in _files(folder / "paraphrases"):
        accuracy, models = _matrix(path, document, "accuracy", Z), document.get("models")
        if not isinstance(models, list) or len(models) != accuracy.shape[1]:
            raise InputError(f"{path}: models must name the {accuracy.shape[1]} columns of accuracy")
        if np.isnan(accuracy).any():
            raise InputError(f"{path}: accuracy must be a number for every prompt and model")
        texts = tuple(document.get("prompts") or ())
        if len(texts) != len(Z) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{path}: prompts must be the texts of the {len(Z)} embeddings")
        found += [
            Landscape(f"{path.stem} / {model}", Z, np.ascontiguousarray(column[:, None]), texts=texts)
            for model, column in zip(models, accuracy.T, strict=True)
        ]
    return found


def blocks(folder: Path) -> list[Landscape]:
    """Read FOLDER/blocks: a landscape for every file, of the prompts scored on all blocks.

    Returns:
        Landscapes with scores (m, blocks): one call scores one block.

    Raises:
        InputError: the folder holds no such file, or a file is damaged; names the file.
    """
    found = []
    for path, document, Z in _files(folder / "blocks"):
        scores = _matrix(path, document, "blocks", Z)
        complete = ~np.isnan(scores).any(axis=1)
        if complete.sum() < MIN_PROMPTS:
            raise InputError(f"{path}: {complete.sum()} prompts have all blocks, at least {MIN_PROMPTS} must")
        size = document.get("examples_in_a_block")
        if not isinstance(size, int) or size < 1:
            raise InputError(f"{path}: examples_in_a_block must be a number of at least 1, got {size!r}")
        found.append(Landscape(path.stem, Z[complete], scores[complete], size))
    return found


READERS: dict[str, Callable[[Path], list[Landscape]]] = {"paraphrases": paraphrases, "blocks": blocks}


def load(folder: Path) -> dict[str, list[Landscape]]:
    """Read the landscapes of every source that the folder holds, by source.

    Raises:
        InputError: the folder holds no source, or a file is damaged.
    """
    found = {source: read(folder) for source, read in READERS.items() if (folder / source).is_dir()}
    if not found:
        raise InputError(f"{folder}: expected a folder {' or '.join(READERS)} there; see bench/README.md")
    return found


def _files(folder: Path) -> list[tuple[Path, dict[str, Any], NDArray[Any]]]:
    """Read NAME.json and NAME.npy of a folder, by name."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            Z = np.load(path.with_suffix(".npy"))
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: cannot be read ({error}); restore NAME.json and NAME.npy") from error
        if not isinstance(document, dict):
            raise InputError(f"{path}: expected a JSON object, got {type(document).__name__}")
        if Z.ndim != 2 or Z.dtype.kind != "f" or not np.isfinite(Z).all():
            raise InputError(f"{path.with_suffix('.npy')}: expected finite embeddings (m, d), got {Z.shape}")
        found.append((path, document, Z))
    if not found:
        raise InputError(f"{folder}: no NAME.json lies there")
    return found


def _matrix(path: Path, document: dict[str, Any], name: str, Z: NDArray[Any]) -> Array:
    """Return the scores of a document, (m, columns), NaN where null."""
    try:
        scores = np.array(document[name], dtype=np.float64)
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {name} must be a matrix of numbers ({error!r})") from error
    if scores.ndim != 2 or len(scores) != len(Z) or len(scores) < MIN_PROMPTS or scores.shape[1] < 1:
        raise InputError(f"{path}: {name} {scores.shape} and embeddings {Z.shape} do not belong together")
    if np.isinf(scores).any() or np.nanmin(scores, initial=0.0) < 0.0 or np.nanmax(scores, initial=1.0) > 1.0:
        raise InputError(f"{path}: {name} must lie from 0 to 1")
    return scores
