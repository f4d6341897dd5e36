"""Conversations and instructions in rows: chat messages, ShareGPT and Alpaca fields as input and output.

The last assistant message is the output, and what comes before it is the input. A system message or an
instruction that is the same in all rows is left out, since the prompt takes its place; one that differs
between rows belongs to the input.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from zopo_fast._utils.text import short_repr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zopo_fast.tasks.rows import Notes, Row, Wanted

FIELDS = ("messages", "conversations", "conversation")  # of chat and ShareGPT files
INSTRUCTION = "instruction"  # of Alpaca files
_ROLES = {
    "system": "System", "developer": "System", "user": "User", "human": "User", "assistant": "Assistant",
    "gpt": "Assistant", "model": "Assistant", "bot": "Assistant", "chatgpt": "Assistant", "tool": "Tool",
    "function": "Tool", "observation": "Tool", "function_call": "Tool call",
}  # fmt: skip


class _Turn(NamedTuple):
    role: str
    text: str
    is_call: bool = False  # of a tool, and no text


class _Parts(NamedTuple):
    """Row without its instruction, and the instruction."""

    row: Row
    instruction: str
    is_chat: bool = False


def is_conversation(value: object) -> bool:
    """Return True for a list of messages with "role" and "content", or "from" and "value"."""
    return isinstance(value, list) and bool(value) and all(_is_message(each) for each in value)


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and (
        ("role" in value and ("content" in value or "tool_calls" in value))
        or ("from" in value and "value" in value)
    )


def with_fields(rows: list[Row], wanted: Wanted, notes: Notes) -> list[Row]:
    """Return the rows with the wanted fields of input and output; the same list if none needed a change.

    Raises:
        TaskError: a conversation holds no assistant message, or a message that is no text.
    """
    if wanted.parts:
        return rows
    parts = [_parts(row, wanted, notes) for row in rows]
    if all(part.row is row for part, row in zip(parts, rows, strict=True)):
        return rows
    if _is_common(parts):
        for part in parts:
            if part.instruction:
                notes.add(
                    "{count} without their common system message or instruction, which the prompt replaces",
                    part.row.place,
                )
        return [part.row for part in parts]
    found = []
    for row, instruction, _ in parts:
        text = row.fields[wanted.input]
        if instruction and isinstance(text, str):
            text = "\n\n".join(part for part in (instruction, text) if part.strip())
            notes.add("{count} with a system message or an instruction as part of the input", row.place)
        found.append(replace(row, fields={**row.fields, wanted.input: text}))
    return found


def _is_common(parts: Sequence[_Parts]) -> bool:
    """Return True if the rows have no more than one instruction, which the prompt can then replace."""
    instructions = {part.instruction for part in parts}
    if all(part.is_chat for part in parts):
        return len(instructions - {""}) <= 1
    return len(instructions) == 1 and len(parts) > 1


def _parts(row: Row, wanted: Wanted, notes: Notes) -> _Parts:
    name, messages = _messages(row, wanted)
    if messages is not None:
        return _from_messages(row, name, messages, wanted, notes)
    instruction = row.fields.get(INSTRUCTION)
    if (
        wanted.input == "input"
        and isinstance(instruction, str)
        and INSTRUCTION not in (wanted.output, *wanted.columns)
        and wanted.output in row.fields
        and isinstance(row.fields.get("input", ""), str | None)
    ):
        text = row.fields.get("input") or ""
        return _Parts(replace(row, fields={**row.fields, "input": text}), instruction.strip())
    return _Parts(row, "")


def _messages(row: Row, wanted: Wanted) -> tuple[str, list[Any] | None]:
    names = (wanted.input,) if wanted.input in row.fields else FIELDS
    for name in names:
        value = row.fields.get(name)
        if isinstance(value, dict) and is_conversation(value.get("messages")):
            return name, value["messages"]
        if is_conversation(value):
            return name, value
    # A conversation under any other name, unless the choice between several would be a guess.
    others = [] if wanted.input in row.fields else [n for n, v in row.fields.items() if is_conversation(v)]
    return (others[0], row.fields[others[0]]) if len(others) == 1 else ("", None)


def _from_messages(row: Row, name: str, messages: list[Any], wanted: Wanted, notes: Notes) -> _Parts:
    turns = [_turn(row, name, number, each) for number, each in enumerate(messages, start=1)]
    system = "\n\n".join(turn.text for turn in turns if turn.role == "System" and turn.text.strip())
    fields = dict(row.fields)
    if wanted.output not in fields:
        last = max((i for i, turn in enumerate(turns) if turn.role == "Assistant"), default=None)
        if last is None and name == wanted.input:
            return _joined(row, fields, turns, wanted, system)  # the missing output is reported as such
        if last is None:
            raise row.error(f"{short_repr(name)} holds no message of the assistant, which is the output")
        if turns[last].is_call:
            raise row.error(f"{short_repr(name)}, message {last + 1}: a call of a tool cannot be the output")
        if last < len(turns) - 1:
            notes.add(
                "{count} with messages after the last one of the assistant, which are left out", row.place
            )
        fields[wanted.output] = turns[last].text
        turns = turns[:last]
    return _joined(row, fields, turns, wanted, system)


def _joined(row: Row, fields: dict[str, Any], turns: Sequence[_Turn], wanted: Wanted, system: str) -> _Parts:
    text = _conversation([turn for turn in turns if turn.role != "System"])
    return _Parts(replace(row, fields={**fields, wanted.input: text}), system, is_chat=True)


def _turn(row: Row, name: str, number: int, message: dict[str, Any]) -> _Turn:
    role = message.get("role", message.get("from"))
    title = _ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if title is None:
        raise row.error(f"{short_repr(name)}, message {number}: unknown role {short_repr(role)}")
    text = content_text(message)
    if text is None and (calls := _calls(message)):
        return _Turn(title, calls, is_call=True)
    if not isinstance(text, str):
        raise row.error(
            f"{short_repr(name)}, message {number}: the content must be a text, not {short_repr(text, 60)}"
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise row.error(f"{short_repr(name)}, message {number} holds a lone surrogate")
    return _Turn(title, text)


def _calls(message: dict[str, Any]) -> str:
    """Return the calls of tools in a message as text, such as `add({"a": 1})`; an empty text without any."""
    calls = message.get("tool_calls")
    functions = (
        [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    )
    return ", ".join(f"{f.get('name')}({f.get('arguments')})" for f in functions if isinstance(f, dict))


def content_text(message: dict[str, Any]) -> Any:
    """Return the content of a message; a list of text parts becomes one text, anything else stays."""
    content = message["content"] if message.get("content") is not None else message.get("value")
    if isinstance(content, list) and content:
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    return content


def _conversation(turns: Sequence[_Turn]) -> str:
    """Return the content of a single user message; several messages become lines that name the role."""
    if len(turns) == 1 and turns[0].role == "User":
        return turns[0].text
    return "\n".join(f"{turn.role}: {turn.text}" for turn in turns)


def last_answer(messages: list[dict[str, Any]]) -> Any:
    """Return the content of the last message, which stands for an output."""
    return content_text(messages[-1])
