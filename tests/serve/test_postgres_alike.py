"""Behaviour of a server on PostgreSQL: the tests of a data folder, once more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serve_tools import InThread, served
from test_serve_studies import (  # noqa: F401
    test_ask_tell_and_discard_one_by_one,
    test_asks_return_the_texts,
    test_many_clients_share_one_study,
)

pytest.importorskip("psycopg")


@pytest.fixture
def server(database: str) -> Iterator[InThread]:
    with served(database) as running:
        yield running
