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
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from zopo_fast.cli.params import FILE, Command, default_help, json_object, option, setting_option
from zopo_fast.errors import ConfigError, MissingDependencyError
from zopo_fast.serve.config import TOKEN_VARIABLE, ServeConfig, ServerLimits

# Longest time that one thread keeps the interpreter. The thread of the journal does little between two waits
# for the disk, and every request waits for that thread.
SWITCH_SECONDS = 0.0005

_LIMITS = ("max_body", "max_pool", "max_studies", "max_pending", "max_jobs", "heartbeat", "stalled_after")


@click.command(cls=Command)
@setting_option(ServeConfig, "data", group="Server", required=True, default=None)
@setting_option(ServeConfig, "host", group="Server")
@setting_option(ServeConfig, "port", group="Server")
@option(
    "--token-file",
    group="Server",
    type=FILE,
    help="File that holds the bearer token." + default_help(f"${TOKEN_VARIABLE}"),
)
@setting_option(ServeConfig, "embedder", group="Server")
@setting_option(ServeConfig, "embedding_base_url", group="Server")
@setting_option(ServeConfig, "embedding_key_env", group="Server", metavar="NAME")
@setting_option(ServeConfig, "embedding_batch", group="Server")
@option(
    "--embedding-body",
    group="Server",
    callback=json_object,
    help="Body parameters of every embedding call, a JSON object.",
)
@setting_option(ServeConfig, "models", group="Server")
@setting_option(ServerLimits, "max_body", group="Limits")
@setting_option(ServerLimits, "max_pool", group="Limits")
@setting_option(ServerLimits, "max_studies", group="Limits")
@setting_option(ServerLimits, "max_pending", group="Limits")
@setting_option(ServerLimits, "max_jobs", group="Limits")
@setting_option(ServerLimits, "heartbeat", group="Limits")
@setting_option(ServerLimits, "stalled_after", group="Limits")
@setting_option(ServeConfig, "log_prompts", group="Output")
@setting_option(ServeConfig, "access_log", group="Output")
def serve(**options: Any) -> int:
    """Serve studies and optimize jobs over HTTP.

    GET /openapi.json describes the API. A tell is acknowledged once it is on disk. SIGTERM or Ctrl-C stops
    the server in order, a second one at once.
    """
    from zopo_fast.serve import require

    require()
    from zopo_fast.serve.logs import json_logging
    from zopo_fast.serve.server import run

    given = {each.name: options[each.name] for each in fields(ServeConfig) if each.name in options}
    config = ServeConfig(
        **given,
        token=_token(options["token_file"]),
        limits=ServerLimits(**{name: options[name] for name in _LIMITS}),
    )
    _tune()

    async def work() -> None:
        stop = asyncio.Event()
        with _stopped_by_signals(stop):
            await run(config, stop, ready=_announce)

    with json_logging(sys.stderr, log_messages=config.log_prompts, log_access=config.access_log):
        _run(work())
    return 0


def _announce(url: str) -> None:
    from zopo_fast.serve.pages import assets

    click.echo(f"Listening on {url}")
    try:
        assets.require()
    except MissingDependencyError:
        return
    click.echo(f"Page: {url}/")


def _tune() -> None:
    """Configure the interpreter for short response times."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()  # modules loaded so far live as long as the process
    gc.set_threshold(20_000, 50, 100)  # requests make no cycles, and a full collection visits all studies


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run the server in uvloop if that is installed."""
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
    """Set `stop` at the first SIGTERM or SIGINT and end the process at the second.

    Ending at once loses nothing: every acknowledged request is on disk.
    """
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    signals = (signal.SIGTERM, signal.SIGINT)
    for each in signals:
        with contextlib.suppress(NotImplementedError):  # the event loop of Windows has no signal handlers
            loop.add_signal_handler(each, on_signal)
    try:
        yield
    finally:
        for each in signals:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(each)
