"""Set-up of a growing pool: whether it grows, and who writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from zopo_fast.errors import ConfigError
from zopo_fast.llm.middleware import SpentModel
from zopo_fast.prompts.writing.demonstration_writer import BesideDemonstrations, DemonstrationWriter
from zopo_fast.prompts.writing.function_writer import as_writer
from zopo_fast.prompts.writing.guards import Guard
from zopo_fast.prompts.writing.model_writers import Crossover, FailureRewriter, Paraphraser, Shortener
from zopo_fast.prompts.writing.part_editor import PartEditor
from zopo_fast.prompts.writing.types import Writer
from zopo_fast.runs import resume
from zopo_fast.runs.driver.given import GivenAnswers
from zopo_fast.runs.driver.grower import Grower
from zopo_fast.runs.growth.state import GrowthState
from zopo_fast.tasks.task import Task

if TYPE_CHECKING:
    from zopo_fast.llm.types import ChatModel
    from zopo_fast.prompts.pool import Pool
    from zopo_fast.prompts.writing.demonstrations import DemonstrationSpace
    from zopo_fast.runs.config import RunConfig
    from zopo_fast.runs.driver.embedding import RunEmbedder
    from zopo_fast.runs.growth.describe import Description
    from zopo_fast.runs.state import RunState
    from zopo_fast.storage.store import Store


@dataclass(frozen=True)
class Writing:
    """Writers of a run.

    Attributes:
        writers: at least one.
        model: that the writers with a model ask; None where there are none.
    """

    writers: tuple[Writer, ...]
    model: SpentModel | None = None


def identity_of(writing: Writing | None) -> dict[str, Any] | None:
    """Return what the drafts of a run depend on, as JSON values; None for a pool that does not grow."""
    if writing is None:
        return None
    model = None if writing.model is None else dict(writing.model.description)
    return {"names": [writer.name for writer in writing.writers], "model": model}


def writing_of_run(
    config: RunConfig,
    pool: Pool,
    given: Sequence[Writer | Callable[..., Any]],
    model: ChatModel | None,
    can_embed: bool,
    space: DemonstrationSpace | None,
    study: Store | None,
) -> Writing | None:
    """Return the writers of a run; None for a pool that does not grow.

    Args:
        config: of the run.
        pool: the first pool.
        given: writers of the caller.
        model: of the writers with a model, at the expense of the run; None: there are none.
        can_embed: whether drafts can be embedded as the pool is.
        space: of the demonstrations that prompts may hold; None: they hold none.
        study: of the run; if it began without growth, the pool does not grow after a resume either.

    Raises:
        ConfigError: growth was requested and is impossible; says why.
    """
    if config.grow is False:
        return None
    obstacle = None
    writers: list[Writer] = []
    spent = None if model is None else SpentModel(model)
    if config.search.official_settings is not None or config.search.search != "improvement":
        obstacle = 'only search="improvement" without the official preset can screen drafts'
    elif not can_embed:
        obstacle = "the embeddings are given without an embedder, so drafts cannot be embedded: give both"
    else:
        writers = _writers(pool, given, spent, space)
        if not writers:
            obstacle = (
                "no writer: the prompts are not composed of known parts; give a model that writes, or writers"
            )
    if obstacle is not None and (config.grow or given):
        raise ConfigError(f"grow: {obstacle}, or turn grow off")
    grows = obstacle is None
    if study is not None:
        grows = resume.pin(study, "grows", grows and resume.is_new(study))
    if not grows:
        return None
    return Writing(tuple(writers), spent)


def _writers(
    pool: Pool,
    given: Sequence[Writer | Callable[..., Any]],
    model: SpentModel | None,
    space: DemonstrationSpace | None,
) -> list[Writer]:
    writers = [as_writer(each) for each in given]
    if not any(isinstance(writer, PartEditor) for writer in writers):
        texts = pool.prompts if space is None else space.instructions(pool.prompts)
        editor = PartEditor.for_pool(texts)
        writers += [] if editor is None else [editor]
    if model is not None:
        writers += [kind(model) for kind in (FailureRewriter, Paraphraser, Crossover, Shortener)]
    if space is None:
        return writers
    return [DemonstrationWriter(space), *(BesideDemonstrations(writer, space) for writer in writers)]


def growth_state(writing: Writing | None, config: RunConfig, size: int) -> GrowthState | None:
    """Return the state of the growth of a pool of `size`; None where it does not grow."""
    if writing is None:
        return None
    return GrowthState(config.growth, {writer.name: writer.calls for writer in writing.writers}, size)


def grower_of(
    writing: Writing | None,
    state: RunState,
    config: RunConfig,
    embedder: RunEmbedder,
    description: Description,
    embeddings: NDArray[Any],
    task: object,
    study: Store | None,
) -> Grower | None:
    """Return the grower of a run; None where the pool does not grow."""
    if writing is None:
        return None
    examples = task.train if isinstance(task, Task) else ()
    return Grower(
        writing.writers,
        config.growth,
        embedder.more,
        description,
        Guard(examples, known=description.to_embed(state.pool.prompts)),
        examples,
        writing.model,
        embeddings,
        config.seed,
        tells_apart=description.linear(state.pool.prompts[:1]) is not None,
        given=GivenAnswers(study, task) if isinstance(task, Task) and study is not None else None,
    )
