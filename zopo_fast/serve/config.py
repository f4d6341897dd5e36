"""What a server is started with: where it listens, where it keeps its data, and what it refuses."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, fields
from pathlib import Path

from zopo_fast._utils.checks import as_integer
from zopo_fast.errors import ConfigError
from zopo_fast.llm.openai.redaction import parse_key

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Bounds of what a client may ask for; times in seconds, sizes in bytes.

    Args:
        max_body: of a request.
        max_pool: prompts of a study.
        max_studies: studies kept at a time.
        max_pending: prompts of a study asked and neither told nor discarded.
        max_scores: prompts of a study with a score: the model of the scores takes their square in memory.
        max_events: asks, tells and discards of a study in all, which are replayed when it is loaded.
        max_streams: connections that follow a job's events at a time.
        max_jobs: optimize jobs running at a time; more wait for their turn.
        max_kept_jobs: jobs kept at a time, those that ended included.
        max_job_events: progress events of a job kept for clients that connect later.
        body_timeout: for a request's body to arrive.
        stop_timeout: for requests in flight and for writing everything down, each, when the server stops.
    """

    max_body: int = 64 * MIB
    max_pool: int = 1_000_000
    max_studies: int = 1_000
    max_pending: int = 10_000
    max_scores: int = 5_000
    max_events: int = 200_000
    max_streams: int = 100
    max_jobs: int = 2
    max_kept_jobs: int = 1_000
    max_job_events: int = 1_000
    body_timeout: float = 60.0
    stop_timeout: float = 10.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name.endswith("timeout"):
                if not 0 < value < float("inf"):
                    raise ConfigError(f"{each.name} must be a positive number of seconds, got {value}")
            elif as_integer(each.name, value) < 1:
                raise ConfigError(f"{each.name} must be at least 1, got {value}")


@dataclass(frozen=True, repr=False)
class ServeConfig:
    """Settings of a server.

    Args:
        data: folder of the journal, the studies and the jobs; made where it is missing.
        host, port: where to listen; port 0 takes a free one.
        token: what clients send as `Authorization: Bearer ...`; None: nothing, which is for loopback only.
        embedder: what embeds pools of texts, as in `optimize`; None: pools have to bring embeddings.
        models: TOML file with the models that jobs may name; None: only the embedded one, "local".
        log_prompts: let prompts and messages that may quote them into the log.
        access_log: a line in the log for each request.

    Raises:
        ConfigError: a value out of range, or an address beyond loopback without a token.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 8321
    token: str | None = None
    embedder: str | None = None
    models: Path | None = None
    log_prompts: bool = False
    access_log: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= as_integer("port", self.port) <= 65535:
            raise ConfigError(f"port must lie in 0 to 65535, got {self.port}")
        if self.token is not None:
            token = parse_key("token", self.token)
            if len(token) < 16:
                raise ConfigError("token: at least 16 characters, or it can be guessed")
            object.__setattr__(self, "token", token)
        elif not is_loopback(self.host):
            raise ConfigError(
                f"host {self.host}: beyond loopback only with a token: give --token-file FILE or set "
                "ZOPO_FAST_TOKEN"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address; a name other than localhost may be anything."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
