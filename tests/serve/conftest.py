"""A running server and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from model_stub import KEY, Model, models_file, running_model
from postgres_tools import Cluster, cluster
from serve_tools import Client, InThread, served


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InThread]:
    with served(tmp_path / "data") as running:
        yield running


@pytest.fixture
def call(server: InThread) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def model() -> Iterator[Model]:
    with running_model() as running:
        yield running


@pytest.fixture
def models(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("A_KEY", KEY)
    return models_file(tmp_path, model)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture
def database(postgres: Cluster) -> Iterator[str]:
    """Create an empty database; the value is its address."""
    url = postgres.database()
    yield url
    postgres.drop(url)
