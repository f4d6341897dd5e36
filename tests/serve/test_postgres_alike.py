"""Behaviour of a server on PostgreSQL: tests of a server with a data folder, once more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serve_tools import InThread, served
from test_serve_learn import (  # noqa: F401
    test_a_study_learns_from_scores_and_studies_as_a_search_in_process,
    test_invalid_requests_to_learn_change_nothing,
    test_learning_does_not_delay_other_studies,
)
from test_serve_restart import test_an_internal_error_in_a_step_is_undone  # noqa: F401
from test_serve_studies import (  # noqa: F401
    test_a_large_pool_does_not_delay_other_studies,
    test_a_study_asks_the_same_as_a_search_in_process,
    test_an_invalid_request_gets_a_problem_with_the_name_of_the_error,
    test_ask_tell_and_discard_one_by_one,
    test_asks_return_the_texts,
    test_many_clients_share_one_study,
)

pytest.importorskip("psycopg")


@pytest.fixture
def server(database: str) -> Iterator[InThread]:
    with served(database) as running:
        yield running
