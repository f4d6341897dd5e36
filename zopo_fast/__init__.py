"""Prompt optimization: find the instruction with which a black-box LLM solves a task best, in few calls.

    import zopo_fast as zf

    opt = zf.Zopo(embeddings, zf.ZopoConfig(budget=50, seed=0))
    while not opt.done:
        i = opt.ask()
        opt.tell(i, score(prompts[i]))
    index, score = opt.best

All names but the exceptions are imported on first use, so that `import zopo_fast` stays quick.
"""

from __future__ import annotations

from importlib import import_module

from zopo_fast._utils import moved
from zopo_fast.errors import (
    ArrayError as ArrayError,
    AuthenticationError as AuthenticationError,
    ConcurrentUseError as ConcurrentUseError,
    ConfigError as ConfigError,
    ConflictingScoreError as ConflictingScoreError,
    DeviceError as DeviceError,
    DeviceLostError as DeviceLostError,
    DeviceMemoryError as DeviceMemoryError,
    EmbeddingMismatchError as EmbeddingMismatchError,
    EndpointDownError as EndpointDownError,
    EventLoopError as EventLoopError,
    InputError as InputError,
    LimitReachedError as LimitReachedError,
    LLMError as LLMError,
    MalformedAnswerError as MalformedAnswerError,
    MetricError as MetricError,
    MissingDependencyError as MissingDependencyError,
    ModelNotFoundError as ModelNotFoundError,
    NothingToAsk as NothingToAsk,
    NotPositiveDefiniteError as NotPositiveDefiniteError,
    OutputError as OutputError,
    PoolError as PoolError,
    RateLimitError as RateLimitError,
    RequestRejectedError as RequestRejectedError,
    RequestTimeoutError as RequestTimeoutError,
    ServerError as ServerError,
    StoreBusyError as StoreBusyError,
    StoreDamagedError as StoreDamagedError,
    StoreError as StoreError,
    StoreFullError as StoreFullError,
    StoreVersionError as StoreVersionError,
    StudyMismatchError as StudyMismatchError,
    TaskError as TaskError,
    UnknownIndexError as UnknownIndexError,
    UnreachableError as UnreachableError,
    ZopoError as ZopoError,
)

TYPE_CHECKING = False  # not typing's, whose import takes longer than the rest of this module
if TYPE_CHECKING:  # the names of _LAZY once more, for type checkers and editors
    from zopo_fast.gp.cuda_arrays import to_device as to_device
    from zopo_fast.gp.device import (
        CudaArray as CudaArray,
        cuda_available as cuda_available,
        cuda_status as cuda_status,
    )
    from zopo_fast.gp.infinite_ntk import InfiniteNTK as InfiniteNTK
    from zopo_fast.gp.ntk import NTK as NTK
    from zopo_fast.gp.process import GaussianProcess as GaussianProcess, Posterior as Posterior
    from zopo_fast.gp.threads import get_num_threads as get_num_threads, set_num_threads as set_num_threads
    from zopo_fast.llm.answer_cache import AnswerCache as AnswerCache
    from zopo_fast.llm.budget import Account as Account
    from zopo_fast.llm.limits import Limits as Limits, Prices as Prices
    from zopo_fast.llm.litellm import LiteLLMModel as LiteLLMModel
    from zopo_fast.llm.local import LocalModel as LocalModel
    from zopo_fast.llm.openai.client import OpenAIClient as OpenAIClient
    from zopo_fast.llm.openai.config import ClientConfig as ClientConfig
    from zopo_fast.llm.types import Usage as Usage
    from zopo_fast.prompts.pool import Pool as Pool
    from zopo_fast.prompts.words import word_features as word_features
    from zopo_fast.prompts.writing.function_writer import (
        FunctionWriter as FunctionWriter,
        as_writer as as_writer,
    )
    from zopo_fast.prompts.writing.guards import Guard as Guard, near_duplicates as near_duplicates
    from zopo_fast.prompts.writing.model_writers import (
        Crossover as Crossover,
        FailureRewriter as FailureRewriter,
        Paraphraser as Paraphraser,
        Shortener as Shortener,
    )
    from zopo_fast.prompts.writing.part_editor import PartEditor as PartEditor
    from zopo_fast.prompts.writing.types import (
        Draft as Draft,
        Failure as Failure,
        Parent as Parent,
        Writer as Writer,
        WriteRequest as WriteRequest,
        Written as Written,
    )
    from zopo_fast.report import plot as plot
    from zopo_fast.report.check import (
        Check as Check,
        CheckedAnswer as CheckedAnswer,
        check as check,
        check_sync as check_sync,
    )
    from zopo_fast.report.study import Study as Study
    from zopo_fast.runs.config import RunConfig as RunConfig
    from zopo_fast.runs.cost.front import FrontPoint as FrontPoint
    from zopo_fast.runs.growth.config import Growth as Growth
    from zopo_fast.runs.growth.state import Grown as Grown
    from zopo_fast.runs.optimize import optimize as optimize, optimize_sync as optimize_sync
    from zopo_fast.runs.result import Result as Result, Trial as Trial
    from zopo_fast.search.batch import ZopoBatch as ZopoBatch
    from zopo_fast.search.config import ZopoConfig as ZopoConfig
    from zopo_fast.search.optimizer import Zopo as Zopo
    from zopo_fast.storage.store import Store as Store
    from zopo_fast.tasks.example import Example as Example
    from zopo_fast.tasks.task import Task as Task

__version__ = "0.1.0"

_LAZY = {
    "NTK": "gp.ntk",
    "InfiniteNTK": "gp.infinite_ntk",
    "GaussianProcess": "gp.process",
    "Posterior": "gp.process",
    "cuda_available": "gp.device",
    "cuda_status": "gp.device",
    "CudaArray": "gp.device",
    "to_device": "gp.cuda_arrays",
    "set_num_threads": "gp.threads",
    "get_num_threads": "gp.threads",
    "Zopo": "search.optimizer",
    "ZopoConfig": "search.config",
    "ZopoBatch": "search.batch",
    "Task": "tasks.task",
    "Example": "tasks.example",
    "Pool": "prompts.pool",
    "word_features": "prompts.words",
    "PartEditor": "prompts.writing.part_editor",
    "Paraphraser": "prompts.writing.model_writers",
    "Crossover": "prompts.writing.model_writers",
    "FailureRewriter": "prompts.writing.model_writers",
    "Shortener": "prompts.writing.model_writers",
    "FunctionWriter": "prompts.writing.function_writer",
    "as_writer": "prompts.writing.function_writer",
    "Guard": "prompts.writing.guards",
    "near_duplicates": "prompts.writing.guards",
    "Draft": "prompts.writing.types",
    "Failure": "prompts.writing.types",
    "Parent": "prompts.writing.types",
    "Writer": "prompts.writing.types",
    "WriteRequest": "prompts.writing.types",
    "Written": "prompts.writing.types",
    "OpenAIClient": "llm.openai.client",
    "ClientConfig": "llm.openai.config",
    "Usage": "llm.types",
    "LocalModel": "llm.local",
    "LiteLLMModel": "llm.litellm",
    "optimize": "runs.optimize",
    "optimize_sync": "runs.optimize",
    "RunConfig": "runs.config",
    "Limits": "llm.limits",
    "Prices": "llm.limits",
    "Account": "llm.budget",
    "AnswerCache": "llm.answer_cache",
    "Store": "storage.store",
    "Study": "report.study",
    "Check": "report.check",
    "CheckedAnswer": "report.check",
    "check": "report.check",
    "check_sync": "report.check",
    "FrontPoint": "runs.cost.front",
    "Growth": "runs.growth.config",
    "Grown": "runs.growth.state",
    "Result": "runs.result",
    "Trial": "runs.result",
}

_LAZY_MODULES = {"plot": "report.plot"}

moved.install()

if not TYPE_CHECKING:  # a checker reports an unknown name

    def __getattr__(name: str) -> object:
        home = _LAZY.get(name) or _LAZY_MODULES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"{__name__}.{home}")
        value = module if name in _LAZY_MODULES else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_LAZY_MODULES})
