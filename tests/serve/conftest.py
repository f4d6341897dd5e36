"""A running server and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_tools import Client, InThread, served


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InThread]:
    with served(tmp_path / "data") as running:
        yield running


@pytest.fixture
def call(server: InThread) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client
