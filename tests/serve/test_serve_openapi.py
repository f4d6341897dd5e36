"""OpenAPI document: generated requests, valid and hostile, get the documented responses."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance
from serve_tools import TOKEN, Client, InThread, served, table

from zopo_fast.serve.config import ServerLimits

# Examples for each operation with a body, valid and invalid each; half as many for the others.
EXAMPLES = int(os.environ.get("ZOPO_SERVE_EXAMPLES", "10"))
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InThread]:
    limits = ServerLimits(
        max_body=200_000, max_pool=500, max_studies=60, max_jobs=1, max_kept_jobs=20, stop_timeout=5
    )
    with served(tmp_path_factory.mktemp("data"), limits, token=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def study(server: InThread) -> str:
    """Create a study with pending prompts and a score."""
    with Client(server.url, TOKEN) as call:
        name = call.study()
        indices = call.ok("POST", f"/v1/studies/{name}/ask", {"n": 3})["indices"]
        call.ok("POST", f"/v1/studies/{name}/tell", {"index": indices[0], "score": 1})
    return name


@pytest.fixture(scope="module")
def empty(server: InThread) -> str:
    with Client(server.url, TOKEN) as call:
        return call.study()


@pytest.fixture(scope="module")
def api(server: InThread) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=BEARER)


def operations() -> list[str]:
    """List all operations without starting a server."""
    return [f"{route.method} {route.path}" for route in table()]


@pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value
)
@pytest.mark.parametrize("name", operations())
def test_the_server_conforms_to_its_document(
    api: schemathesis.BaseSchema, study: str, empty: str, name: str, mode: GenerationMode
) -> None:
    method, path = name.split()
    operation = api[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.headers):
        pytest.skip("only the path can be invalid")

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES if operation.body else EXAMPLES // 2,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        if method != "DELETE" and "study" in case.path_parameters and mode is GenerationMode.POSITIVE:
            # Existing studies, because random ids only test the 404; without a score, /best is a 409.
            case.path_parameters["study"] = empty if path.endswith("/best") else study
        # Some bodies are valid by the schema and refused: an index beyond the pool is a 422.
        case.call_and_validate(headers=BEARER, timeout=20, excluded_checks=[positive_data_acceptance])

    check()
