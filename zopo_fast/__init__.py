"""zopo_fast: the instruction that makes a black-box LLM do a task best, in the fewest calls.

    import zopo_fast as zf

    opt = zf.Zopo(embeddings, zf.ZopoConfig(budget=165, initial=40, seed=0))
    while not opt.done:
        i = opt.ask()
        opt.tell(i, score(prompts[i]))
    index, score = opt.best

Names load at first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

from zopo_fast.errors import *  # noqa: F403 - the exception tree is the package's own

__version__ = "0.1.0"

_HOME = {
    "NTK": "gp.ntk",
    "InfiniteNTK": "gp.infinite_ntk",
    "GaussianProcess": "gp.process",
    "Posterior": "gp.process",
    "cuda_available": "gp.device",
    "cuda_status": "gp.device",
    "to_device": "gp.cuda_arrays",
    "CudaArray": "gp.device",
    "set_num_threads": "gp.threads",
    "get_num_threads": "gp.threads",
    "Zopo": "search.optimizer",
    "ZopoConfig": "search.config",
    "ZopoBatch": "search.batch",
    "Task": "tasks.task",
    "Example": "tasks.task",
    "Pool": "prompts.pool",
    "OpenAIClient": "llm.openai.client",
    "ClientConfig": "llm.openai.config",
    "Usage": "llm.types",
    "LocalModel": "llm.local",
    "optimize": "runs.optimize",
    "optimize_sync": "runs.optimize",
    "RunConfig": "runs.config",
    "Limits": "llm.limits",
    "Prices": "llm.limits",
    "Account": "llm.budget",
    "AnswerCache": "llm.answer_cache",
    "Store": "storage.store",
    "Result": "runs.result",
    "Trial": "runs.result",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
