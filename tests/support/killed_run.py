"""One process of a run that the test kills."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from resume_tools import EMBEDDINGS, PROMPTS, TASK, settings

import zopo_fast as zf

FINISHED = 7
"""Exit code of a process whose run came to its end."""


async def _live(path: Path, url: str, key: str) -> None:
    async with zf.OpenAIClient(zf.ClientConfig("m", base_url=url, api_key=key, concurrency=8)) as client:
        await zf.optimize(TASK, PROMPTS, client, settings(), embeddings=EMBEDDINGS, store=path)


def live(path: str, url: str, key: str) -> None:
    """Run, or resume, the study at `path`; `key` tells the server which process a request comes from."""
    asyncio.run(_live(Path(path), url, key))
    sys.exit(FINISHED)
