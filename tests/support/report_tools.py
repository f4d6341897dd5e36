"""Studies of small runs for tests of reports: a function stands for the model; every text may be hostile."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import zopo_fast as zf

HOSTILE = (
    "<script>window.stolen = 1</script>",
    '</script><script>window.stolen = 1</script><!-- " --> ',
    "<img src=x onerror='window.stolen = 1'>",
    "'\"><svg onload=window.stolen=1>",
    "{{ 7 * 7 }} {% include 'x' %} ${7*7}",
    "\u202etxet desrever\u202c \u2066isolate\u2069 \u200bzero",
    "\x1b[31mred\x1b[0m \x9b2J",
    "javascript:window.stolen=1",
    "&lt;b&gt; &amp; <b>bold</b>",
)


def make_run(
    folder: Path,
    prompts: Sequence[str] | None = None,
    *,
    wrong: str = "no",
    examples: Sequence[zf.Example] | None = None,
    name: str = "toy",
    stop_after: int | None = None,
    **settings: Any,
) -> zf.Result:
    """Run a search with a study in `folder`; the longer a prompt, the more answers are right.

    Args:
        folder: of the study.
        prompts: pool; default: 24 texts.
        wrong: wrong answer to the last example; those to the others are short.
        examples: of the task, a third of them held out; default: 36.
        name: of the task.
        stop_after: number of trials after which the run stops.
        **settings: of the RunConfig.
    """
    texts = list(prompts or (f"Say yes{' please' * (i % 7)} ({i})." for i in range(24)))
    made = list(examples or (zf.Example(f"question {i}", ("yes",)) for i in range(36)))
    cut = len(made) * 2 // 3
    task = zf.Task(name, tuple(made[:cut]), tuple(made[cut:]), metric="exact_match")
    longest = max(map(len, texts))

    def model(messages: Any) -> str:
        content = str(messages[-1]["content"])
        prompt = max((text for text in texts if text in content), key=len, default="")
        hard = zlib.crc32(content.encode()) / 2**32
        if hard < 0.85 * len(prompt) / longest:
            return "yes"
        return wrong if made[-1].input in content else f"no to {HOSTILE[0]}"

    embeddings = np.random.default_rng(0).normal(size=(len(texts), 8)).astype(np.float32)
    embeddings[:, 0] = [len(text) / longest for text in texts]
    trials: list[zf.Trial] = []

    def on_trial(trial: zf.Trial) -> None:
        trials.append(trial)
        if stop_after is not None and len(trials) >= stop_after:
            raise KeyboardInterrupt

    config = zf.RunConfig(**{"budget": 8, "initial": 3, "incumbent": texts[0], **settings})
    store = folder / "study.sqlite3"
    folder.mkdir(parents=True, exist_ok=True)
    return zf.optimize_sync(task, texts, model, config, embeddings=embeddings, store=store, on_trial=on_trial)
