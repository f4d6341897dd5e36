"""One life of a run that its parent kills: started in a process of its own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from resume_tools import EMBEDDINGS, PROMPTS, TASK, settings

import zopo_fast as zf


async def _live(path: Path, url: str) -> None:
    async with zf.OpenAIClient(zf.ClientConfig("m", base_url=url, concurrency=8)) as client:
        await zf.optimize(TASK, PROMPTS, client, settings(), embeddings=EMBEDDINGS, store=path)


def live(path: str, url: str) -> None:
    asyncio.run(_live(Path(path), url))
    sys.exit(7)  # the run has come to its end
