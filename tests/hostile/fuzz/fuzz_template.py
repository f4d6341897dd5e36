"""Fuzz template files and the texts inserted into them."""

from __future__ import annotations

from pathlib import Path

from harness import fuzz, instrumented

with instrumented:
    from zopo_fast.tasks import template

from zopo_fast.tasks.task import Example


def target(folder: Path, data: bytes) -> None:
    """Use the input up to the first NUL byte as the file, the rest as prompt and as input."""
    content, _, rest = data.partition(b"\0")
    path = folder / "x.json"
    path.write_bytes(content)
    layout = template.resolve(str(path))
    text = rest.decode("utf-8", "replace")
    prompt, input = text[::2], text[1::2]
    rendered = "".join(m["content"] for m in layout.render(prompt, input, [Example(text, (prompt,))]))
    if prompt not in rendered or input not in rendered:
        raise AssertionError("an inserted text changed")


if __name__ == "__main__":
    fuzz(target)
