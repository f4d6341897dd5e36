"""Templates that render a prompt and an input, or several columns, as chat messages.

Placeholders are replaced in a single pass: a prompt or an input that itself holds `{input}`, `[PROMPT]` or
braces is inserted unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zopo_fast._utils.files import MAX_SETTINGS_BYTES, UnreadableFileError, is_file, read_bytes
from zopo_fast._utils.text import parse_json, short_repr
from zopo_fast.errors import ConfigError
from zopo_fast.tasks.column_names import PLACEHOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zopo_fast.tasks.example import Example

PROMPT = ("{prompt}", "[PROMPT]")
INPUT = ("{input}", "[INPUT]")
ROLES = ("system", "user", "assistant")
_RESERVED = ("prompt", "input", "demonstrations")
_ESCAPED = re.compile(rf"\{{(?!\{{(?:prompt|input|demonstrations|output)\}}\}}){PLACEHOLDER.pattern}\}}")


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace each key of `values` in a text by its value, in a single pass from left to right."""
    if not values:
        return text
    # Longest first: a key must not hide a longer one that starts with it.
    keys = sorted(values, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, keys)), lambda match: values[match.group()], text)


@dataclass(frozen=True)
class Template:
    """Messages with the placeholders `{prompt}` and `{input}` (or `[PROMPT]` and `[INPUT]`).

    Further placeholders name columns of the task, such as `{question}` and `{context}`; with one of them
    `{input}` may be absent. Double braces stand for single ones: `{{name}}` is rendered as `{name}`.

    Few-shot demonstrations become turns before the last message with the input: this message with the input
    of the demonstration, then its output as the assistant. With a `demonstration` text they become blocks of
    text at `{demonstrations}` instead.

    Args:
        name: of the template, for messages.
        messages: pairs of role and content.
        demonstration: text of one demonstration, with `{input}` and `{output}`.

    Raises:
        ConfigError: an unknown role, or a missing placeholder.
    """

    name: str
    messages: tuple[tuple[str, str], ...]
    demonstration: str | None = None

    def __post_init__(self) -> None:
        for role, _ in self.messages:
            if role not in ROLES:
                raise ConfigError(
                    f"template {self.name!r}: unknown role {short_repr(role)}; roles are {', '.join(ROLES)}"
                )
        for placeholder in (PROMPT, INPUT):
            if not any(_holds(content, placeholder) for _, content in self.messages):
                if placeholder is INPUT and any(self.columns.values()):
                    continue
                more = " or a {column}" if placeholder is INPUT else ""
                raise ConfigError(
                    f"template {self.name!r}: no message holds {placeholder[0]} (or {placeholder[1]}){more}"
                )
        if self.demonstration is not None and not any(
            "{demonstrations}" in content for _, content in self.messages
        ):
            raise ConfigError(f"template {self.name!r}: no message holds {{demonstrations}}")

    @cached_property
    def columns(self) -> dict[str, bool]:
        """Names in placeholders of columns, in order; False for braces that may be of another language.

        Braces as in the LaTeX texts `\\boxed{B}` and `x_{i}` are a placeholder only if the task has such a
        column.
        """
        found: dict[str, bool] = {}
        texts = [content for _, content in self.messages]
        for text in [*texts, self.demonstration or ""]:
            reserved = (*_RESERVED, "output") if text is self.demonstration else _RESERVED
            last, is_certain = 0, True  # end of the placeholder before; whether it is certain
            for match in PLACEHOLDER.finditer(_ESCAPED.sub(" ", text)):
                before = match.string[match.start() - 1 : match.start()]
                is_certain = not (before.isalnum() or before in ("_", "^", "\\")) and (
                    is_certain or match.start() != last
                )
                last = match.end()
                if match[1] not in reserved:
                    found[match[1]] = found.get(match[1], False) or is_certain
        return found

    @cached_property
    def has_input(self) -> bool:
        """True when a message holds the placeholder of the input."""
        return any(_holds(content, INPUT) for _, content in self.messages)

    def render(
        self,
        prompt: str,
        input: str,
        demonstrations: Sequence[Example] = (),
        columns: Iterable[tuple[str, str]] = (),
    ) -> list[dict[str, str]]:
        """Return the messages of a call as dictionaries with "role" and "content".

        Args:
            prompt: the instruction.
            input: of the example to answer.
            demonstrations: few-shot examples; each shows its first output.
            columns: name and text of the further columns of the example.

        Raises:
            ConfigError: the template has no input, and the example lacks a column instead.
        """
        asked = self._asked
        values = self._values(input, columns) | dict.fromkeys(PROMPT, prompt) | self._escapes
        if self.demonstration is not None:
            values["{demonstrations}"] = self._blocks(self.demonstration, demonstrations)
        rendered: list[dict[str, str]] = []
        for i, (role, content) in enumerate(self.messages):
            if i == asked and self.demonstration is None:
                for shot in demonstrations:
                    turn = fill(content, values | self._values(shot.input, shot.columns))
                    rendered.append({"role": role, "content": turn})
                    rendered.append({"role": "assistant", "content": shot.outputs[0]})
            rendered.append({"role": role, "content": fill(content, values)})
        return rendered

    def demonstration_text(self, shot: Example) -> str:
        """Return the text of a demonstration, in the form of the template's own input.

        Where nothing follows the input, the labels "Input:" and "Output:" tell the two apart.

        Raises:
            ConfigError: the template has no input, and the example lacks a column instead.
        """
        if self.demonstration is not None:
            return self._blocks(self.demonstration, [shot])
        content = self.messages[self._asked][1]
        for placeholder in PROMPT:
            content = content.rpartition(placeholder)[2]
        values = self._values(shot.input, shot.columns) | self._escapes
        asks = [key for key in values if key not in self._escapes and key in content]
        if not asks:  # the input comes before the prompt
            return f"Input: {shot.input}\nOutput: {shot.outputs[0]}"
        last = max(content.rfind(key) + len(key) for key in asks)
        label, answer = content[:last], content[last:].rstrip(" ")
        if not answer.strip():
            label, answer = label if label.strip() not in asks else f"Input: {label.strip()}", "\nOutput:"
        blank = "" if answer.endswith("\n") else " "
        return fill(label + answer, values) + blank + shot.outputs[0]

    @cached_property
    def _asked(self) -> int:
        """Index of the message that asks: the last one with the input or a column."""
        keys = INPUT if self.has_input else tuple(f"{{{name}}}" for name in self.columns)
        return max(i for i, (_, content) in enumerate(self.messages) if _holds(content, keys))

    @cached_property
    def _escapes(self) -> dict[str, str]:
        texts = [*(content for _, content in self.messages), self.demonstration or ""]
        return {match[0]: match[0][1:-1] for text in texts for match in _ESCAPED.finditer(text)}

    def _values(self, input: str, columns: Iterable[tuple[str, str]]) -> dict[str, str]:
        values = {f"{{{name}}}": text for name, text in columns} | dict.fromkeys(INPUT, input)
        if not self.has_input:
            for name, is_certain in self.columns.items():
                if is_certain and f"{{{name}}}" not in values:
                    raise ConfigError(
                        f"template {self.name!r}: an example has no column {short_repr(name)}; give it as "
                        "Example(columns={...}), or load the task with this template"
                    )
        return values

    def _blocks(self, text: str, demonstrations: Sequence[Example]) -> str:
        return "".join(
            fill(
                text,
                {f"{{{name}}}": value for name, value in shot.columns}
                | {"{input}": shot.input, "{output}": shot.outputs[0]}
                | self._escapes,
            )
            for shot in demonstrations
        )


def _holds(content: str, placeholders: Sequence[str]) -> bool:
    return any(placeholder in content for placeholder in placeholders)


VARIABLE = re.compile(r"\{\{-?\s*([A-Za-z_][\w.-]*?)\s*-?\}\}")
VARIABLES = "variables"
"""Name of the template whose prompts are whole templates themselves."""


def variables_of(prompt: str) -> tuple[str, ...]:
    """Return the names of the `{{ variables }}` of a prompt, in order."""
    return tuple(dict.fromkeys(match[1] for match in VARIABLE.finditer(prompt)))


def with_variables(prompt: str, names: Iterable[str]) -> str:
    """Return the prompt; one without any variable of `names` gets them all at its end."""
    names = tuple(names)
    if not names or set(variables_of(prompt)) & set(names):
        return prompt
    return "\n\n".join([prompt, *(f"{{{{{name}}}}}" for name in names)])


class VariableTemplate(Template):
    """Template of prompts that are whole templates: their `{{ variables }}` are columns of the example.

    A prompt that is a JSON list of messages is rendered as these messages, any other as one user message. A
    variable that the example lacks stays empty. A prompt without any variable gets all columns at its end.
    """

    def render(
        self,
        prompt: str,
        input: str,
        demonstrations: Sequence[Example] = (),
        columns: Iterable[tuple[str, str]] = (),
    ) -> list[dict[str, str]]:
        """Return the messages of a call; demonstrations are left out."""
        values = dict(columns)
        text = with_variables(prompt, values)
        return [
            {"role": role, "content": VARIABLE.sub(lambda match: values.get(match[1], ""), content)}
            for role, content in _messages_of(text)
        ]


def _messages_of(text: str) -> list[tuple[str, str]]:
    """Return role and content of the messages of a prompt."""
    if text.startswith("["):
        try:
            return [(str(each["role"]), str(each["content"])) for each in parse_json(text)]
        except (ValueError, TypeError, KeyError):
            pass  # a text that begins with a bracket
    return [("user", text)]


# "instruction" is the evaluation template of the published experiments; chat models often get the others.
TEMPLATES: Mapping[str, Template] = {
    template.name: template
    for template in (
        Template(
            "instruction",
            (("user", "Instruction: {prompt}\n\n{demonstrations}Input: {input}\n\nOutput:"),),
            demonstration="Input: {input}\n\nOutput: {output}\n\n",
        ),
        Template("system", (("system", "{prompt}"), ("user", "{input}"))),
        Template("user", (("user", "{prompt}\n\n{input}"),)),
        Template("chat", (("user", "{prompt}\n\n{input}"),)),
    )
}


def resolve(name: str | Template) -> Template:
    """Return the template of a name, of a text, or read from a file.

    A JSON file holds `{"messages": [{"role": "user", "content": "... {prompt} ... {input} ..."}]}`,
    optionally with the text "demonstration", or the list of messages alone. A text file, and a text with
    `{prompt}` in place of a name, is a single user message.

    Args:
        name: of a built-in template, a text, or the path of a file. A Template is returned as it is.

    Raises:
        ConfigError: an unknown name, or a file that holds no template.
    """
    if isinstance(name, Template):
        return name
    if name == VARIABLES:
        return VariableTemplate(VARIABLES, (("user", "{prompt} {input}"),))
    if name in TEMPLATES:
        return TEMPLATES[name]
    if _holds(name, PROMPT):
        return Template(short_repr(name, 40)[1:-1], (("user", name),))
    if _is_text(name):
        raise ConfigError(f"template {short_repr(name, 60)}: a text must hold {{prompt}} (or [PROMPT])")
    path = Path(name)
    if path.suffix.lower() == ".json" or is_file(path):
        return _load(path)
    raise ConfigError(
        f"unknown template {short_repr(name)}; give {', '.join(sorted(TEMPLATES))}, "
        "the path of a .json or text file, or a text with {prompt}"
    )


def is_given(name: str) -> bool:
    """Return True if a template is a text or the path of a file that exists, and no other name."""
    return _holds(name, PROMPT) or _is_text(name) or is_file(name)


def _is_text(name: str) -> bool:
    return PLACEHOLDER.search(name) is not None and not is_file(name)


def _load(path: Path) -> Template:
    try:
        text = read_bytes(path, MAX_SETTINGS_BYTES).decode("utf-8-sig")
        if path.suffix.lower() in {".txt", ".md"}:
            return Template(str(path), (("user", text.rstrip("\n")),))
        document: Any = parse_json(text)
    except UnreadableFileError as error:
        raise ConfigError(f"template {path}: {error}") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise ConfigError(f"template {path}: not a JSON file: {error}") from error
    messages = document.get("messages") if isinstance(document, dict) else document
    if not isinstance(messages, list) or not messages:
        raise ConfigError(f'template {path}: needs a list "messages" of at least one message')
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise ConfigError(f'template {path}: message {number} needs the texts "role" and "content"')
    demonstration = document.get("demonstration") if isinstance(document, dict) else None
    if not isinstance(demonstration, (str, type(None))):
        raise ConfigError(f'template {path}: "demonstration" must be a text')
    pairs = tuple((message["role"], message["content"]) for message in messages)
    return Template(str(path), pairs, demonstration)
