"""`zopo-fast serve`: studies and jobs over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

from zopo_fast.cli.options import FILE
from zopo_fast.errors import ConfigError

TOKEN_VARIABLE = "ZOPO_FAST_TOKEN"
# How long one thread may keep the interpreter to itself: the journal's thread has little to do between two
# waits for the disk, and every request waits for it.
SWITCH_SECONDS = 0.0005


@click.command()
@click.option("--data", type=FILE, required=True, help="Folder of the studies; made where it is missing.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen; beyond loopback with a token only.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8321, show_default=True, help="0: a free one.")
@click.option("--token-file", type=FILE, help=f"File with the bearer token.  [default: ${TOKEN_VARIABLE}]")
@click.option(
    "--embedder", help="What embeds pools of texts, as in optimize.  [default: they bring embeddings]"
)
@click.option(
    "--models", type=FILE, help="TOML file with the models that jobs may name.  [default: local alone]"
)
@click.option("--max-body", type=click.IntRange(1), help="Bytes of a request.  [default: 64 MiB]")
@click.option("--max-pool", type=click.IntRange(1), help="Prompts of a study.  [default: 1000000]")
@click.option("--max-studies", type=click.IntRange(1), help="Studies kept.  [default: 1000]")
@click.option(
    "--max-pending", type=click.IntRange(1), help="Prompts of a study asked and not told.  [default: 10000]"
)
@click.option("--max-jobs", type=click.IntRange(1), help="Jobs running at a time.  [default: 2]")
@click.option(
    "--log-prompts", is_flag=True, help="Let prompts, and messages that may quote them, into the log."
)
@click.option("--access-log", is_flag=True, help="Log every request.")
def serve(**options: Any) -> int:
    """Serve studies (create, ask, tell, ...) and optimize jobs over HTTP; /openapi.json says how.

    A tell is answered once it is on disk. SIGTERM or Ctrl-C ends in order, a second one at once.
    """
    from zopo_fast.serve import require

    require()
    from zopo_fast.serve.config import Limits, ServeConfig
    from zopo_fast.serve.logs import json_logging
    from zopo_fast.serve.server import run

    names = ("max_body", "max_pool", "max_studies", "max_pending", "max_jobs")
    config = ServeConfig(
        data=options["data"],
        host=options["host"],
        port=options["port"],
        token=_token(options["token_file"]),
        embedder=options["embedder"],
        models=options["models"],
        log_prompts=options["log_prompts"],
        access_log=options["access_log"],
        limits=Limits(**{name: options[name] for name in names if options[name] is not None}),
    )
    _tune()

    async def work() -> None:
        stop = asyncio.Event()
        with _stopped_by_signals(stop):
            await run(config, stop, ready=lambda url: click.echo(f"Listening on {url}"))

    with json_logging(sys.stderr, log_messages=config.log_prompts, log_access=config.access_log):
        _run(work())
    return 0


def _tune() -> None:
    """Set the interpreter up for short waits."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()  # what was loaded by now stays
    gc.set_threshold(20_000, 50, 100)  # requests leave no cycles; a look at all studies' objects takes long


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run it in the fastest event loop there is."""
    if importlib.util.find_spec("uvloop") is None:
        asyncio.run(work)
        return
    import uvloop

    uvloop.run(work)


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip() or None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {file}: cannot be read: {type(error).__name__}") from None
    if not token:
        raise ConfigError(f"--token-file {file}: holds no token")
    return token


@contextlib.contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Any:
    """The first SIGTERM or SIGINT sets `stop`; a second one ends the process: all answered is on disk."""
    loop = asyncio.get_running_loop()

    def first() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    signals = (signal.SIGTERM, signal.SIGINT)
    for each in signals:
        with contextlib.suppress(NotImplementedError):  # Windows' event loop has no signal handlers
            loop.add_signal_handler(each, first)
    try:
        yield
    finally:
        for each in signals:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(each)
