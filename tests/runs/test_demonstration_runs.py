"""Runs that search demonstrations together with the instruction."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zopo_fast as zf
from zopo_fast.prompts.writing.demonstrations import DemonstrationSpace
from zopo_fast.runs.cost.estimate import estimate
from zopo_fast.runs.growth.candidates import Candidates
from zopo_fast.runs.growth.describe import Description, space_of, with_reserve

LABELS = ("sports", "business", "science", "politics")
EXAMPLES = tuple(zf.Example(f"headline {i}", (LABELS[i % 4],)) for i in range(36))
TASK = zf.Task("headlines", EXAMPLES[:20], reserve=EXAMPLES[20:])
SPACE = DemonstrationSpace(TASK.reserve, "instruction")
VERBS, ENDS = ("Name", "Give", "State", "Pick", "Choose"), ("", "Use one word.", "Answer briefly.")
POOL = tuple(
    f"{verb} the {noun}. {end}".strip() for verb in VERBS for noun in ("topic", "desk") for end in ENDS
)
EMBEDDINGS = np.random.default_rng(0).normal(size=(len(POOL), 8))


def chance(*key: object) -> float:
    """Return a number in [0, 1) that depends on the key alone."""
    return zlib.crc32(repr(key).encode()) / 2**32


def accuracy(text: str, effect: float) -> float:
    """Return the true score of a prompt in a world where demonstrations change scores by `effect`."""
    instruction, chosen = SPACE.split(text)
    of_words = sum(chance(word) for word in instruction.split()) / len(instruction.split())
    return 0.1 + 0.7 * of_words + (effect + 0.02 * len(chosen) * np.sign(effect) if chosen else 0.0)


class Model:
    """Answers as often rightly as the accuracy of the prompt says, and counts its calls."""

    def __init__(self, effect: float, most: float) -> None:
        self.effect, self.most, self.asked = effect, most, list[str]()

    def __call__(self, messages: list[dict[str, str]]) -> str:
        if len(self.asked) == self.most:
            raise KeyboardInterrupt
        text, _, asked = messages[-1]["content"].removeprefix("Instruction: ").rpartition("Input: ")
        number = int(asked.split()[1])
        self.asked.append(text.strip())
        is_right = chance(text.strip(), number) < accuracy(text.strip(), self.effect)
        return LABELS[number % 4] if is_right else "none"


def run(effect: float, task: Any = TASK, **more: Any) -> tuple[zf.Result, Model]:
    model = Model(effect, more.pop("most", np.inf))
    settings = {"budget": 10, "calls": 160, "heldout": False, "seed": 1, **more.pop("config", {})}
    result = zf.optimize_sync(
        task, list(POOL), model, zf.RunConfig(**settings), **{"embeddings": EMBEDDINGS, **more}
    )
    return result, model


# ---- what a run finds ------------------------------------------------------------------------------


def test_demonstrations_win_where_they_help_and_stay_out_where_they_hurt() -> None:
    plain = replace(TASK, reserve=())
    for effect in (-0.25, 0.25):
        alone = np.mean(
            [accuracy(run(effect, plain, config={"seed": s})[0].best_prompt, effect) for s in (1, 2)]
        )
        found = [run(effect, config={"seed": s})[0].best_prompt for s in (1, 2)]
        both = np.mean([accuracy(text, effect) for text in found])
        assert [bool(SPACE.split(text)[1]) for text in found] == [effect > 0] * 2
        assert both > alone + 0.2 if effect > 0 else both > alone - 0.02


def test_the_same_instructions_are_asked_first_with_and_without(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite3"
    run(0.0, store=path)
    with zf.Store.open(path) as study:
        initial, pool = study.get("initial"), study.pool()
    first = [SPACE.split(pool.prompts[i]) for i in initial]
    shown = [instruction for instruction, chosen in first if chosen]
    assert (len(first), len(shown)) == (6, 3)
    assert set(shown) <= {instruction for instruction, chosen in first if not chosen}


def test_the_same_seed_gives_the_same_run() -> None:
    one, other = run(0.2), run(0.2)
    assert one[1].asked == other[1].asked
    assert one[0].best_prompt == other[0].best_prompt


def test_a_study_resumes_where_it_was_interrupted(tmp_path: Path) -> None:
    whole, model = run(0.2)
    path = tmp_path / "study.sqlite3"
    with pytest.raises(KeyboardInterrupt):
        run(0.2, store=path, most=70)
    result, rest = run(0.2, store=path)
    assert result.best_prompt == whole.best_prompt
    assert len(rest.asked) < len(model.asked) - 40
    with pytest.raises(zf.StudyMismatchError, match="task"):
        run(0.2, replace(TASK, reserve=EXAMPLES[20:30]), store=path)


# ---- where the examples come from ------------------------------------------------------------------


def test_no_prompt_is_scored_on_what_it_may_show() -> None:
    bare = zf.Task("headlines", EXAMPLES[:20], EXAMPLES[20:])
    result, _ = run(0.3, bare, config={"demonstrations": "search", "heldout": True})
    task = with_reserve(bare, "search")
    assert (task.train, task.reserve) == (EXAMPLES[:14], EXAMPLES[14:20])
    assert result.heldout is not None
    fixed = zf.Task("headlines", EXAMPLES[:20], demonstrations=EXAMPLES[20:24])
    task = with_reserve(fixed, "search")
    assert (task.train, task.reserve, task.demonstrations) == (EXAMPLES[:20], EXAMPLES[20:24], ())
    assert with_reserve(fixed, None) is fixed


def test_what_cannot_be_searched_is_refused() -> None:
    config = zf.RunConfig(demonstrations="search")
    with pytest.raises(zf.ConfigError, match="5 train examples leave none"):
        with_reserve(zf.Task("t", EXAMPLES[:5]), "search")
    with pytest.raises(zf.ConfigError, match="needs a Task"):
        zf.optimize_sync(len, list(POOL), config=config)
    with pytest.raises(zf.ConfigError, match="only search="):
        run(0.0, config={"search": zf.ZopoConfig(search="thompson")})
    with pytest.raises(zf.ConfigError, match="demonstrations must be one of search"):
        zf.RunConfig(demonstrations="all")  # type: ignore[arg-type]


# ---- what the search sees --------------------------------------------------------------------------


class Embedder:
    """Embeds texts by their lengths, and keeps what it was given."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def embed(self, texts: list[str]) -> Any:
        self.texts += texts
        return [[float(len(text)), float(text.count("e"))] for text in texts]


def test_each_instruction_is_embedded_once() -> None:
    embedder = Embedder()
    incumbent = SPACE.render("Sort the headline.", (0, 1))
    run(0.0, embeddings=None, embedder=embedder, config={"incumbent": incumbent})
    assert embedder.texts == [*POOL, "Sort the headline."]


def test_candidates_of_an_instruction_share_its_embedding_and_words() -> None:
    candidates = Candidates.of(zf.Pool.from_texts(list(POOL)), TASK, zf.ZopoConfig(), 2)
    prompts = candidates.pool.prompts
    instructions = SPACE.instructions(prompts)
    Z = candidates.rows(EMBEDDINGS)
    np.testing.assert_array_equal(Z, EMBEDDINGS[[POOL.index(text) for text in instructions]])
    about = Description(prompts, candidates.space)
    assert about.to_embed(prompts) == instructions
    np.testing.assert_array_equal(about.features(prompts), zf.word_features(instructions, POOL))
    np.testing.assert_array_equal(about.linear(prompts), SPACE.linear(prompts))
    assert set(about.arrays(prompts)) == {"features", "linear"}
    assert space_of(replace(TASK, reserve=())) is None


def test_the_estimate_bounds_the_longest_prompt() -> None:
    config = zf.RunConfig(budget=10, heldout=False)
    plain = estimate(replace(TASK, reserve=()), POOL, config)
    bound = estimate(TASK, POOL, config)
    assert bound.calls == plain.calls
    longest = max((SPACE.render("", chosen) for chosen in SPACE.sets), key=len)
    assert bound.prompt_tokens > plain.prompt_tokens + bound.calls * len(longest.split())
