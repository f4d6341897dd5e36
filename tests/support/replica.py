"""Stub of one replica of a served model, as a process: `python replica.py HELD_AT`.

The first line of its output is its port. After `HELD_AT` chat calls the replica holds every further one,
prints "held" and waits to be killed; 0: the replica answers all.
"""

from __future__ import annotations

import asyncio
import sys

from cli_tools import answer
from fake_server import Behaviour, FakeServer, Request, ok, slow


async def main(held_at: int) -> None:
    """Serve until the process is killed."""
    chats = 0

    def plan(request: Request) -> Behaviour:
        nonlocal chats
        if request.path.endswith("/embeddings"):
            return ok()
        chats += 1
        if held_at and chats > held_at:
            if chats == held_at + 1:
                print("held", flush=True)
            return slow()
        return ok()

    async with FakeServer(answer, plan=plan) as server:
        print(server.url.rsplit(":", 1)[1].split("/")[0], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
