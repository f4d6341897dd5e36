"""The operations on studies."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from zopo_fast.errors import ConfigError, NothingToAsk
from zopo_fast.search.config import OfficialSettings, ZopoConfig
from zopo_fast.serve.http.idempotency import Once
from zopo_fast.serve.http.routing import Call, Route
from zopo_fast.serve.studies import schemas
from zopo_fast.serve.studies.payload import texts_of, unpacked
from zopo_fast.serve.studies.record import Record
from zopo_fast.serve.studies.schemas import CreateStudy, SearchConfig
from zopo_fast.serve.studies.service import Studies
from zopo_fast.serve.studies.study import Study

_encode = msgspec.json.Encoder().encode
_CREATIONS = 4  # at a time: each holds its pool several times over


class Embeds(Protocol):
    """What turns texts into vectors."""

    async def embed(self, texts: list[str]) -> Any: ...


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which part of a list."""

    after: Annotated[str, Meta(max_length=100)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


def search_config(given: SearchConfig) -> ZopoConfig:
    """The settings of a search; ConfigError where they do not go together."""
    values = msgspec.structs.asdict(given)
    official = values.pop("official_settings")
    settings = None if official is None else OfficialSettings(**msgspec.structs.asdict(official))
    return ZopoConfig(**values, official_settings=settings)


class StudyRoutes:
    """Handlers of what lies below /v1/studies."""

    def __init__(self, studies: Studies, embedder: Embeds | None) -> None:
        self._studies, self._embedder = studies, embedder
        self._limits = studies.limits
        self._creations = asyncio.Semaphore(_CREATIONS)
        self._once: Once[Record] = Once()
        steps = studies.metrics.steps
        self._saw_ask, self._saw_tell = steps["ask"], steps["tell"]

    def routes(self) -> list[Route]:
        """The table's part."""
        one = "/v1/studies/{study}"
        return [
            Route(
                "POST", "/v1/studies", self.create, "createStudy", "Make a study of a pool.",
                body=CreateStudy, answer=schemas.Study, status=201, keyed=True,
                problems=(409, 422, 429, 502, 503, 504, 507),
            ),
            Route(
                "GET", "/v1/studies", self.list, "listStudies", "List the studies, by id.",
                query=Page, answer=schemas.StudyList, problems=(422,),
            ),
            Route(
                "GET", one, self.show, "getStudy", "What a study's state is, in short.",
                answer=schemas.Study, problems=(404, 503),
            ),
            Route(
                "DELETE", one, self.delete, "deleteStudy", "Remove a study for good.", status=204,
                problems=(404, 503),
            ),
            Route(
                "GET", one + "/state", self.state, "getStudyState",
                "The state from which the study can be continued elsewhere, by Zopo.from_state().",
                answer=schemas.StudyState, problems=(404, 503),
            ),
            Route(
                "GET", one + "/best", self.best, "getBest", "The best prompt so far.",
                answer=schemas.Scored, problems=(404, 409, 503),
            ),
            Route(
                "POST", one + "/ask", self.ask, "ask", "Ask for the next prompts to score.",
                body=schemas.Ask, answer=schemas.Asked, problems=(404, 409, 422, 429, 503, 507),
                keyed=True, body_optional=True, hot=True,
            ),
            Route(
                "POST", one + "/tell", self.tell, "tell",
                "Tell a score, and ask for the next prompts with it.",
                body=schemas.Tell, answer=schemas.Asked, problems=(404, 409, 422, 429, 503, 507),
                keyed=True, hot=True,
            ),
            Route(
                "POST", one + "/discard", self.discard, "discard",
                "Give a pending prompt back without a score.",
                body=schemas.Discard, answer=schemas.Asked, problems=(404, 409, 422, 503, 507),
                keyed=True, hot=True,
            ),
        ]  # fmt: skip

    # ---- the hot ones ------------------------------------------------------------------------------

    async def ask(self, call: Call) -> bytes:
        start = time.perf_counter()

        def work(study: Study) -> schemas.Asked:
            return study.asked_for(study.ask(call.body.n, self._limits))

        answer = await self._change(call, work)
        self._saw_ask(time.perf_counter() - start)
        return answer

    async def tell(self, call: Call) -> bytes:
        start = time.perf_counter()

        def work(study: Study) -> schemas.Asked:
            return study.asked_for(study.step(call.body, self._limits))

        answer = await self._change(call, work)
        self._saw_tell(time.perf_counter() - start)
        return answer

    async def discard(self, call: Call) -> bytes:
        start = time.perf_counter()

        def work(study: Study) -> schemas.Asked:
            study.discard(call.body.index, self._limits)
            return study.asked_for([])

        answer = await self._change(call, work)
        self._studies.metrics.steps["discard"](time.perf_counter() - start)
        return answer

    async def _change(self, call: Call, work: Any) -> bytes:
        """Do it once a key, and answer every time."""
        key = call.key

        def keyed(study: Study) -> bytes:
            if key is None:
                return _encode(work(study))
            known = study.answered(*key)
            if known is not None:
                return known
            answer = _encode(work(study))
            study.remember(*key, answer)
            return answer

        return await self._studies.change(call.target, keyed)

    # ---- create, look, delete ----------------------------------------------------------------------

    async def create(self, call: Call) -> bytes:
        start = time.perf_counter()
        record = None if call.key is None else self._studies.created(*call.key)
        if record is None:
            self._studies.reserve()
            record = await self._once(call.key, lambda: self._create(call.body, call.key))
        answer = await self._studies.change(record.id, lambda study: _encode(_summary(record, study)))
        self._studies.metrics.steps["create"](time.perf_counter() - start)
        return answer

    async def _create(self, wanted: CreateStudy, key: tuple[str, str] | None) -> Record:
        async with self._creations:
            config = search_config(wanted.config)
            texts, given = wanted.texts, wanted.embeddings
            if texts is None and given is None:
                raise ConfigError("a study needs texts, embeddings, or both")
            array = None if given is None else await asyncio.to_thread(unpacked, given, self._limits)
            prompts = None
            if texts is not None:
                rows = None if array is None else len(array)
                prompts = await asyncio.to_thread(texts_of, texts, rows, self._limits)
            if array is None:
                if self._embedder is None or prompts is None:
                    raise ConfigError("texts need embeddings: this server was started without --embedder")
                array = await self._embedder.embed(prompts)
            return await self._studies.create(config, array, prompts, wanted.name, key)

    async def list(self, call: Call) -> bytes:
        page, after = self._studies.listed(call.query.after, call.query.limit)
        entries = [
            schemas.StudyEntry(
                r.id, r.meta["name"], r.meta["created"], r.meta["prompts"], r.meta["dimension"]
            )
            for r in page
        ]
        return _encode(schemas.StudyList(entries, after))

    async def show(self, call: Call) -> bytes:
        record = self._studies.get(call.target)
        return await self._studies.change(record.id, lambda study: _encode(_summary(record, study)))

    async def state(self, call: Call) -> bytes:
        def look(study: Study) -> bytes:
            texts = None if study.prompts is None else list(study.prompts)
            return _encode(schemas.StudyState(study.optimizer.state_dict(), texts))

        return await self._studies.change(call.target, look)

    async def best(self, call: Call) -> bytes:
        def look(study: Study) -> bytes:
            best = study.best()
            if best is None:
                raise NothingToAsk("best: no score was told yet")
            return _encode(best)

        return await self._studies.change(call.target, look)

    async def delete(self, call: Call) -> bytes:
        await self._studies.delete(self._studies.get(call.target))
        return b""


def _summary(record: Record, study: Study) -> schemas.Study:
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
    )
