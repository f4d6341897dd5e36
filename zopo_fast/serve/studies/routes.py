"""HTTP operations on studies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from zopo_fast.errors import ConfigError, EmbeddingMismatchError, InputError, NothingToAsk, StoreError
from zopo_fast.llm.types import EmbeddingModel
from zopo_fast.prompts.vectors import warn_if_blind
from zopo_fast.search.config import OfficialSettings, ZopoConfig
from zopo_fast.serve.http.idempotency import Deduplicator, IdempotencyKey
from zopo_fast.serve.http.problems import Problem
from zopo_fast.serve.http.request import PageQuery
from zopo_fast.serve.http.routing import ParsedRequest, Route
from zopo_fast.serve.http.schemas import ResponseBody
from zopo_fast.serve.studies import schemas
from zopo_fast.serve.studies.payload import decode_embeddings, normalize_texts
from zopo_fast.serve.studies.record import StudyRecord
from zopo_fast.serve.studies.schemas import CreateStudy, SearchConfig
from zopo_fast.serve.studies.service import StudyService
from zopo_fast.serve.studies.study import KnownScores, LoadedStudy

MAX_CREATIONS = 4  # at a time: each holds several copies of its pool
_encode = msgspec.json.Encoder().encode


def search_config(given: SearchConfig) -> ZopoConfig:
    """Convert the settings of a request to those of a search.

    Raises:
        ConfigError: the settings contradict each other.
    """
    values = msgspec.structs.asdict(given)
    official = values.pop("official_settings")
    settings = None if official is None else OfficialSettings(**msgspec.structs.asdict(official))
    return ZopoConfig(**values, official_settings=settings)


class StudyRoutes:
    """Handlers of the paths below /v1/studies.

    Args:
        studies: the studies of the server.
        embedder: embeds pools of texts; None: requests bring embeddings.
    """

    def __init__(self, studies: StudyService, embedder: EmbeddingModel | None) -> None:
        self._studies, self._embedder = studies, embedder
        self._limits, self._metrics = studies.limits, studies.metrics
        self._creation_slots = asyncio.Semaphore(MAX_CREATIONS)
        self._creations: Deduplicator[StudyRecord] = Deduplicator()

    def routes(self) -> list[Route]:
        """List the routes, for the route table."""
        one = "/v1/studies/{study}"
        return [
            Route(
                "POST", "/v1/studies", self.create, "createStudy", "Create a study.",
                body=CreateStudy, response=schemas.Study, status=201, accepts_key=True,
                problem_statuses=(409, 422, 429, 502, 503, 504, 507),
            ),
            Route(
                "GET", "/v1/studies", self.list, "listStudies", "List the studies, ordered by id.",
                query=PageQuery, response=schemas.StudyList, problem_statuses=(422,),
            ),
            Route(
                "GET", one, self.show, "getStudy", "Get a summary of a study.",
                response=schemas.Study, problem_statuses=(404, 503),
            ),
            Route(
                "DELETE", one, self.delete, "deleteStudy", "Delete a study permanently.", status=204,
                problem_statuses=(404, 503),
            ),
            Route(
                "GET", one + "/state", self.state, "getStudyState",
                "Get the state of the search, for Zopo.from_state().",
                response=schemas.StudyState, problem_statuses=(404, 503),
            ),
            Route(
                "GET", one + "/best", self.best, "getBest", "Get the best prompt so far.",
                response=schemas.Scored, problem_statuses=(404, 409, 503),
            ),
            Route(
                "POST", one + "/learn", self.learn, "learn",
                "Learn from the scores of an earlier search, before the first ask.",
                body=schemas.Learn, response=schemas.Learned, problem_statuses=(404, 409, 422, 503, 507),
                accepts_key=True, is_preformatted=True,
            ),
            Route(
                "POST", one + "/ask", self.ask, "ask", "Ask for the next prompts to score.",
                body=schemas.Ask, response=schemas.Asked, problem_statuses=(404, 409, 422, 429, 503, 507),
                accepts_key=True, is_body_optional=True, is_preformatted=True,
            ),
            Route(
                "POST", one + "/tell", self.tell, "tell",
                "Tell the score of a prompt, and optionally ask for the next prompts.",
                body=schemas.Tell, response=schemas.Asked, problem_statuses=(404, 409, 422, 429, 503, 507),
                accepts_key=True, is_preformatted=True,
            ),
            Route(
                "POST", one + "/discard", self.discard, "discard",
                "Return a pending prompt without a score.",
                body=schemas.Discard, response=schemas.Asked, problem_statuses=(404, 409, 422, 503, 507),
                accepts_key=True, is_preformatted=True,
            ),
        ]  # fmt: skip

    # ---- learn, ask, tell, discard -----------------------------------------------------------------

    async def learn(self, request: ParsedRequest) -> bytes:
        wanted: schemas.Learn = request.body
        known = None if wanted.study is None else await self._known_scores(wanted.study)

        def operation(study: LoadedStudy) -> schemas.Learned:
            if isinstance(known, Exception):  # raised here, so that a retry still gets its first response
                raise known
            return study.learn(*_source(wanted, study, known), self._limits)

        return await self._apply_once(request, operation, is_long=True)

    async def _known_scores(self, study: str) -> KnownScores | Exception:
        """Return the scores of another study, or the error of the request that names it."""
        try:
            await self._studies.get(study)
        except Problem:
            return Problem(
                422, "UnknownStudy", f"study: there is no study {study}; list the studies, or send scores"
            )
        try:
            return await self._studies.apply(study, LoadedStudy.known_scores, is_long=True, is_view=True)
        except (InputError, StoreError, Problem) as error:
            return error

    async def ask(self, request: ParsedRequest) -> bytes:
        start = time.perf_counter()

        def operation(study: LoadedStudy) -> schemas.Asked:
            return study.asked_response(study.ask(request.body.n, self._limits))

        body = await self._apply_once(request, operation)
        self._metrics.ask.observe(time.perf_counter() - start)
        return body

    async def tell(self, request: ParsedRequest) -> bytes:
        start = time.perf_counter()

        def operation(study: LoadedStudy) -> schemas.Asked:
            return study.asked_response(study.step(request.body, self._limits))

        body = await self._apply_once(request, operation)
        self._metrics.tell.observe(time.perf_counter() - start)
        return body

    async def discard(self, request: ParsedRequest) -> bytes:
        start = time.perf_counter()

        def operation(study: LoadedStudy) -> schemas.Asked:
            study.discard(request.body.index, self._limits)
            return study.asked_response([])

        body = await self._apply_once(request, operation)
        self._metrics.discard.observe(time.perf_counter() - start)
        return body

    async def _apply_once(
        self,
        request: ParsedRequest,
        operation: Callable[[LoadedStudy], ResponseBody],
        *,
        is_long: bool = False,
    ) -> bytes:
        """Apply an operation once per idempotency key; a retry gets the recorded response."""
        key = request.key

        def apply(study: LoadedStudy) -> bytes:
            if key is None:
                return _encode(operation(study))
            recorded = study.recorded_response(key)
            if recorded is not None:
                return recorded
            body = _encode(operation(study))
            study.record_response(key, body)
            return body

        return await self._studies.apply(request.resource_id, apply, is_long=is_long)

    # ---- creation, views, deletion -----------------------------------------------------------------

    async def create(self, request: ParsedRequest) -> bytes:
        start = time.perf_counter()
        record = None if request.key is None else await self._studies.find_created(request.key)
        if record is None:
            await self._studies.check_capacity()
            record = await self._creations.run(request.key, lambda: self._create(request.body, request.key))
        body = await self._summary(record)
        self._metrics.create.observe(time.perf_counter() - start)
        return body

    async def _create(self, wanted: CreateStudy, key: IdempotencyKey | None) -> StudyRecord:
        async with self._creation_slots:
            config = search_config(wanted.config)
            texts, given = wanted.texts, wanted.embeddings
            if texts is None and given is None:
                raise ConfigError("a study needs a pool: send texts, embeddings or both")
            array = None if given is None else await asyncio.to_thread(decode_embeddings, given, self._limits)
            prompts = None
            if texts is not None:
                rows = None if array is None else len(array)
                prompts = await asyncio.to_thread(normalize_texts, texts, rows, self._limits)
            if array is None:
                if self._embedder is None or prompts is None:
                    raise ConfigError(
                        "texts without embeddings: this server has no embedder; send embeddings, or start it "
                        "with --embedder"
                    )
                array = await self._embedder.embed(prompts)
                warn_if_blind(array, getattr(self._embedder, "name", None))
            return await self._studies.create(config, array, prompts, wanted.name, key)

    async def list(self, request: ParsedRequest) -> bytes:
        page, after = await self._studies.list_page(request.query.after, request.query.limit)
        entries = [
            schemas.StudyEntry(
                r.id, r.meta["name"], r.meta["created"], r.meta["prompts"], r.meta["dimension"]
            )
            for r in page
        ]
        return _encode(schemas.StudyList(entries, after))

    async def show(self, request: ParsedRequest) -> bytes:
        return await self._summary(await self._studies.get(request.resource_id))

    async def _summary(self, record: StudyRecord) -> bytes:
        return await self._studies.apply(
            record.id, lambda study: _encode(_summary(record, study)), is_view=True
        )

    async def state(self, request: ParsedRequest) -> bytes:
        def view(study: LoadedStudy) -> bytes:
            texts = None if study.prompts is None else list(study.prompts)
            return _encode(schemas.StudyState(study.optimizer.state_dict(), texts))

        return await self._studies.apply(request.resource_id, view, is_view=True)

    async def best(self, request: ParsedRequest) -> bytes:
        def view(study: LoadedStudy) -> bytes:
            best = study.best()
            if best is None:
                raise NothingToAsk("the study has no best prompt yet; tell a score first")
            return _encode(best)

        return await self._studies.apply(request.resource_id, view, is_view=True)

    async def delete(self, request: ParsedRequest) -> bytes:
        await self._studies.delete(await self._studies.get(request.resource_id))
        return b""


def _source(
    wanted: schemas.Learn, study: LoadedStudy, known: KnownScores | None
) -> tuple[list[int], list[float], float | list[float] | None, str | None]:
    """Return the scores of a request to learn, and the name of their source.

    Raises:
        InputError: the request holds neither scores nor a study, or both.
        EmbeddingMismatchError: the other study has other embeddings.
    """
    if known is None:
        if wanted.indices is None or wanted.scores is None:
            raise InputError("learn: send indices and scores, or the id of a study")
        return wanted.indices, wanted.scores, wanted.noise, wanted.source
    if not (wanted.indices is wanted.scores is wanted.noise is None):
        raise InputError("learn: send indices, scores and noise, or the id of a study, not both")
    if study.pool_fingerprint() != known.pool:
        raise EmbeddingMismatchError(
            f"study: {wanted.study} has other embeddings than this study; send indices and scores"
        )
    name = wanted.study if wanted.source is None else wanted.source
    return known.indices, known.scores, known.noise, name


def _summary(record: StudyRecord, study: LoadedStudy) -> schemas.Study:
    return schemas.Study(
        id=record.id,
        name=record.meta["name"],
        created=record.meta["created"],
        prompts=study.size,
        dimension=study.dimension,
        dtype=study.dtype,
        texts=study.prompts is not None,
        config=msgspec.convert(study.optimizer.config.to_dict(), SearchConfig),
        budget=study.budget,
        asked=study.asked,
        scored=len(study.scored),
        pending=study.optimizer.pending,
        done=study.optimizer.done,
        best=study.best(),
        sources=list(study.sources),
    )
