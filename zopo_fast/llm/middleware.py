"""Wrappers of chat models: metered by an account, probed after refusals, recorded in a study."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from zopo_fast.errors import LLMError
from zopo_fast.llm.tokens import require_answer_limit
from zopo_fast.llm.types import Usage

if TYPE_CHECKING:
    from zopo_fast.llm.types import Answer, CallKey, ChatModel, Message, Payer


MIN_REFUSALS = 6
"""Refusals of unknown reason in a row before a probe, ..."""
MIN_PROMPTS = 3
"""... and the prompts that they are of: a single prompt, or a single example, may be refused for good."""
_UNSPECIFIC = "HTTP 4"  # codes of refusals whose reason the endpoint does not state in a known way


class ModelWrapper:
    """Chat model around another one, whose identity, slots and limits it takes over."""

    def __init__(self, model: ChatModel) -> None:
        self.model = model

    @property
    def identity(self) -> Mapping[str, Any] | None:
        return self.model.identity

    @property
    def description(self) -> Mapping[str, Any]:
        return self.model.description

    @property
    def slots(self) -> int:
        return self.model.slots

    @property
    def max_answer_tokens(self) -> int | None:
        return self.model.max_answer_tokens

    async def chat(
        self, messages: Sequence[Message], *, key: CallKey | None = None, account: Payer | None = None
    ) -> Answer:
        """Answer `messages` by the wrapped model, whose errors it raises."""
        return await self.model.chat(messages, key=key, account=account)


class MeteredModel(ModelWrapper):
    """Chat model whose calls an account pays for.

    Raises:
        ConfigError: the account limits tokens or cost, and nothing limits the model's answers.
    """

    def __init__(self, model: ChatModel, account: Payer) -> None:
        super().__init__(model)
        self._account = account
        if account.bounded:  # checked here, so that the error precedes every call
            require_answer_limit(model.max_answer_tokens)

    async def chat(
        self, messages: Sequence[Message], *, key: CallKey | None = None, account: Payer | None = None
    ) -> Answer:
        """Answer `messages` at the expense of `account`, by default the account of this wrapper.

        Raises:
            LimitReachedError: the account has no room for the call.
        """
        return await super().chat(messages, key=key, account=account or self._account)


class SpentModel(ModelWrapper):
    """Chat model that adds up the usage of its answers in `spent`."""

    def __init__(self, model: ChatModel) -> None:
        super().__init__(model)
        self.spent = Usage()

    async def chat(
        self, messages: Sequence[Message], *, key: CallKey | None = None, account: Payer | None = None
    ) -> Answer:
        """Answer `messages` by the wrapped model, whose errors it raises."""
        answer = await super().chat(messages, key=key, account=account)
        self.spent += answer.usage
        return answer


class ProbedModel(ModelWrapper):
    """Chat model that tells refused calls from an endpoint that refuses every call.

    An endpoint whose account is disabled, or whose model is unloaded, may answer 400 without a code that says
    so. After `MIN_REFUSALS` such refusals in a row, of `MIN_PROMPTS` prompts or more, the messages answered
    last are sent once more: if they are refused too, the failure concerns the endpoint, else the call.
    Refusals at the same time share one such probe.
    """

    def __init__(self, model: ChatModel) -> None:
        super().__init__(model)
        self._answered: Sequence[Message] | None = None
        self._refused: list[str] = []  # prompts of the refusals since the last answer
        self._probing = asyncio.Lock()
        self._probes = 0  # ended so far
        self._found: Usage | LLMError = Usage()  # outcome of the last one

    async def chat(
        self, messages: Sequence[Message], *, key: CallKey | None = None, account: Payer | None = None
    ) -> Answer:
        """Answer `messages` by the wrapped model.

        Raises:
            LLMError: that of the wrapped model; it concerns the endpoint where a probe is refused, too.
        """
        try:
            answer = await super().chat(messages, key=key, account=account)
        except LLMError as error:
            if error.concerns != "call" or not error.code.startswith(_UNSPECIFIC) or self._answered is None:
                raise
            self._refused.append("" if key is None else key.prompt)
            if len(self._refused) < MIN_REFUSALS or len(set(self._refused)) < MIN_PROMPTS:
                raise
            found = await self._shared_probe(self._answered, account)
            if isinstance(found, Usage):
                self._refused.clear()
                error.usage = found  # type: ignore[attr-defined]
                raise
            refused = type(found)(
                f"{error}. A call that was answered before is refused, too: {found}",
                concerns=found.concerns if found.concerns != "call" else "endpoint",
                code=found.code,
            )
            refused.refuses_all = True
            raise refused from error
        self._answered = messages
        self._refused.clear()
        return answer

    async def _shared_probe(self, messages: Sequence[Message], account: Payer | None) -> Usage | LLMError:
        """Return the usage of an answered probe, or the error of a refused one."""
        before = self._probes
        async with self._probing:
            if self._probes == before:
                self._found = await self._send_probe(messages, account)
                self._probes += 1
                return self._found
            # Another call's probe has ended meanwhile, and that call counts its usage.
            return Usage() if isinstance(self._found, Usage) else self._found

    async def _send_probe(self, messages: Sequence[Message], account: Payer | None) -> Usage | LLMError:
        try:
            return (await super().chat(messages, account=account)).usage
        except LLMError as error:
            return error


class AnswerLog(Protocol):
    """Answers that outlast a run, such as those in a study file."""

    def answers(self) -> dict[bytes, list[int]]:
        """Return the numbers of all answers, oldest first, by the key of their call."""

    def answer(self, number: int) -> Answer:
        """Return the answer of that number."""

    def add_answer(self, key: bytes, role: str, answer: Answer) -> None:
        """Append an answer under the key of its call."""


class ReplayedAnswers:
    """Answers of a study that no call of this run has used yet; all models of a run share one object."""

    def __init__(self, log: AnswerLog) -> None:
        self.log = log
        # Numbers instead of answers: answers may be large, and a resumed run needs few of them.
        self._unused = log.answers()

    def take(self, key: bytes) -> Answer | None:
        """Return the oldest unused answer under `key`; each answer is returned once."""
        numbers = self._unused.get(key)
        return self.log.answer(numbers.pop(0)) if numbers else None


class RecordedModel(ModelWrapper):
    """Chat model that replays the answers of a study and records new ones there.

    Args:
        model: answers calls that the study has no answer to.
        answers: the study's answers.
        role: use of the model: "model", "judge" or "writer"; part of the key of an answer.
    """

    def __init__(self, model: ChatModel, answers: ReplayedAnswers, role: str) -> None:
        super().__init__(model)
        self._answers, self._role = answers, role

    async def chat(
        self, messages: Sequence[Message], *, key: CallKey | None = None, account: Payer | None = None
    ) -> Answer:
        """Answer `messages` from the study, else by the wrapped model, whose errors it raises."""
        digest = recorded_key(self._role, key, messages)
        answer = self._answers.take(digest)
        if answer is None:
            answer = await super().chat(messages, key=key, account=account)
            self._answers.log.add_answer(digest, self._role, answer)
        return answer


def recorded_key(role: str, key: CallKey | None, messages: Sequence[Message]) -> bytes:
    """Return the key under which a study records an answer: 16 bytes of BLAKE2b of canonical JSON.

    Study files hold these bytes: a change here makes a resumed study ask again.
    """
    call = [role, list(key or ()), [dict(message) for message in messages]]
    text = json.dumps(call, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
