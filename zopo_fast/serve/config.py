"""Settings of a server."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zopo_fast._utils.settings import check, described, document, setting
from zopo_fast.errors import ConfigError
from zopo_fast.llm.openai.config import KEY_ENV
from zopo_fast.llm.openai.redaction import parse_key

TOKEN_VARIABLE = "ZOPO_FAST_TOKEN"
_DATABASES = ("postgresql://", "postgres://")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


@document
@dataclass(frozen=True)
class ServerLimits:
    """Limits of what clients may request; times in seconds, sizes in bytes.

    Raises:
        ConfigError: A value is out of range; the message names the setting.
    """

    max_body: int = setting(64 * 2**20, "Bytes of a request body.", minimum=1, default_text="64 MiB")
    max_pool: int = setting(1_000_000, "Prompts of a study.", minimum=1)
    max_studies: int = setting(1_000, "Studies kept at a time.", minimum=1)
    max_pending: int = setting(
        10_000, "Prompts of a study that were asked and neither told nor discarded.", minimum=1
    )
    # The Gaussian process takes memory quadratic in the scores.
    max_scores: int = setting(5_000, "Scored prompts of a study.", minimum=1)
    max_events: int = setting(
        200_000, "Asks, tells and discards of a study in total; loading the study replays them.", minimum=1
    )
    max_streams: int = setting(100, "Connections that follow the events of a job at a time.", minimum=1)
    max_jobs: int = setting(2, "Optimize jobs running at a time; further jobs are queued.", minimum=1)
    max_kept_jobs: int = setting(1_000, "Jobs kept at a time, finished ones included.", minimum=1)
    max_job_events: int = setting(
        1_000, "Progress events of a job kept for clients that connect later.", minimum=1
    )
    heartbeat: float = setting(
        5.0, "Seconds between two heartbeats of a server whose jobs are in PostgreSQL.", above=0
    )
    stalled_after: float = setting(
        20.0, "Seconds without a heartbeat after which another server resumes a server's jobs.", above=0
    )
    body_timeout: float = setting(60.0, "Seconds for the body of a request to arrive.", above=0)
    stop_timeout: float = setting(
        10.0,
        "Seconds to finish the requests in flight, and as many to write everything to disk, when the server "
        "stops.",
        above=0,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.stalled_after < 2 * self.heartbeat:
            raise ConfigError(
                f"stalled_after: {self.stalled_after:g} is less than two heartbeats of {self.heartbeat:g} "
                "seconds; raise it"
            )


@document
@dataclass(frozen=True, repr=False)
class ServeConfig:
    """Settings of a server.

    Raises:
        ConfigError: A value is out of range, or the address is beyond loopback and there is no token.
    """

    data: Path | str = field(
        metadata=described(
            "Folder of the journal, the studies and the jobs, created if missing; or a database that several "
            "servers share, postgresql://USER@HOST/NAME."
        )
    )
    host: str = setting("127.0.0.1", "Address to listen on; one beyond loopback needs a token.")
    port: int = setting(8321, "Port to listen on; 0 takes a free one.", minimum=0, maximum=65535)
    token: str | None = setting(
        None, "Bearer token that clients send; without one the server listens on loopback only.", minimum=16
    )
    embedder: str | None = setting(
        None,
        "Embedder of pools that are texts: local, local:mean, endpoint:MODEL, st:NAME or minilm.",
        default_text="requests bring embeddings",
    )
    embedding_base_url: str | None = setting(
        None, "Endpoint of --embedder endpoint:MODEL.", minimum=1, default_text="$OPENAI_BASE_URL"
    )
    embedding_key_env: str | None = setting(
        None,
        "Environment variable with the API key of the embedding endpoint.",
        minimum=1,
        default_text=f"${KEY_ENV} without embedding_base_url",
    )
    embedding_batch: int | None = setting(
        None, "Texts in one embedding call.", minimum=1, default_text="64, fewer where the endpoint refuses"
    )
    embedding_body: Mapping[str, Any] = field(
        default_factory=dict, metadata=described("Body parameters of every embedding call.")
    )
    models: Path | None = setting(
        None, "TOML file of the models that jobs may name.", default_text="the embedded model alone"
    )
    log_prompts: bool = setting(False, "Prompts, and messages that may quote them, in the log.")
    access_log: bool = setting(False, "Log line for each request.")
    limits: ServerLimits = field(
        default_factory=ServerLimits, metadata=described("Limits of what clients may request.")
    )

    def __post_init__(self) -> None:
        check(self)
        if self.database is None:
            if (url := _URL.match(str(self.data))) is not None:  # as a folder, it would show its password
                raise ConfigError(
                    f"data: a URL with {url[1]!r} is not supported; give a folder, or "
                    "postgresql://USER@HOST/NAME"
                )
            object.__setattr__(self, "data", Path(self.data))
        for name in ("embedding_base_url", "embedding_key_env", "embedding_batch", "embedding_body"):
            if getattr(self, name) and not (self.embedder or "").startswith("endpoint:"):
                raise ConfigError(f"{name} needs the embedder endpoint:MODEL")
        if self.token is not None:
            object.__setattr__(self, "token", parse_key("token", self.token))
        elif not is_loopback(self.host):
            raise ConfigError(
                f"host {self.host}: an address beyond loopback needs a token: give --token-file FILE or set "
                f"{TOKEN_VARIABLE}"
            )

    @property
    def database(self) -> str | None:
        """URL of the database that holds the data; None: a folder does."""
        return self.data if isinstance(self.data, str) and self.data.startswith(_DATABASES) else None


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address; of names, only localhost counts."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
