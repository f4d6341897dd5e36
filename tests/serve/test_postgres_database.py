"""Connections to PostgreSQL: migrations, TLS, and errors that name no password."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from postgres_tools import PASSWORD, QUOTED, Cluster, cluster, make_authority
from serve_tools import SECONDS, Client, served

from zopo_fast.errors import ConfigError, MissingDependencyError, StoreError, StoreVersionError
from zopo_fast.serve.config import ServeConfig
from zopo_fast.serve.server import Server

pytest.importorskip("psycopg")

from zopo_fast.serve.postgres import database as database_module
from zopo_fast.serve.postgres.database import Database


def opened(url: str, query: str = "SELECT 1", at_once: int = 1) -> list[Any]:
    """Open a database several times at once; return the first row of a query from each."""

    async def one() -> Any:
        database = Database(url)
        await database.open()
        try:
            return await database.retry(fetch)
        finally:
            await database.close()

    async def fetch(connection: Any) -> Any:
        return await (await connection.execute(query)).fetchone()

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(one() for _ in range(at_once)))

    return asyncio.run(all_of_them())


# ---- migrations --------------------------------------------------------------------------------------


def test_the_migrations_are_numbered_from_one_without_a_gap() -> None:
    numbers = sorted(database_module.migrations())
    assert numbers == list(range(1, len(numbers) + 1))


def test_servers_that_start_at_once_migrate_once(database: str) -> None:
    counts = "SELECT count(*), count(DISTINCT number), max(number) FROM migration"
    known = len(database_module.migrations())
    assert opened(database, counts, at_once=4) == [(known, known, known)] * 4


def test_an_older_schema_is_migrated_and_a_newer_one_refused(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(database) as server, Client(server.url) as call:
        study = call.study()
    known = database_module.migrations()
    later = {**known, max(known) + 1: "CREATE TABLE later (number int); INSERT INTO later VALUES (7)"}
    monkeypatch.setattr(database_module, "migrations", lambda: later)
    assert opened(database, "SELECT number FROM later") == [(7,)]
    with served(database) as server, Client(server.url) as call:
        assert call.ok("GET", f"/v1/studies/{study}")["prompts"] == 30
    monkeypatch.setattr(database_module, "migrations", lambda: known)
    with pytest.raises(StoreVersionError, match="upgrade the package"), served(database):
        pass


def test_a_failed_migration_leaves_the_schema_as_it_was(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {1: "CREATE TABLE first (number int)", 2: "CREATE TABLE second (number nonsense)"}
    with monkeypatch.context() as patch:
        patch.setattr(database_module, "migrations", lambda: broken)
        with pytest.raises(StoreError, match="nonsense"):
            opened(database)
    assert opened(database, "SELECT to_regclass('first'), to_regclass('study')::text") == [(None, "study")]


def test_a_role_without_the_right_to_create_opens_a_migrated_schema(postgres: Cluster, database: str) -> None:
    opened(database)
    name = database.rsplit("/", 1)[1]
    with postgres.connect(name) as connection:
        connection.execute("CREATE ROLE visitor LOGIN PASSWORD 'short'")
        connection.execute("GRANT USAGE ON SCHEMA zopo_fast TO visitor")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA zopo_fast TO visitor")
    url = f"postgresql://visitor:short@127.0.0.1:{postgres.port}/{name}"
    assert opened(url, "SELECT count(*) FROM study") == [(0,)]


def test_commits_are_durable_where_the_default_is_asynchronous(postgres: Cluster, database: str) -> None:
    name = database.rsplit("/", 1)[1]
    for given, used in (("off", "on"), ("remote_apply", "remote_apply")):
        with postgres.connect() as connection:
            connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = {given}")
        assert opened(database, "SELECT current_setting('synchronous_commit')") == [(used,)]


# ---- TLS ---------------------------------------------------------------------------------------------


def test_the_url_decides_how_the_server_is_verified(tmp_path: Path) -> None:
    query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    with cluster(tls=True) as running:
        assert running.authority is not None
        url = running.url(host="localhost") + "?sslmode="
        verified = f"{url}verify-full&sslrootcert={running.authority}"
        assert opened(verified, query) == [(True,)]
        with served(verified) as server, Client(server.url) as call:
            assert len(call.ok("POST", f"/v1/studies/{call.study()}/ask")["indices"]) == 1
        wrong = make_authority(tmp_path, "another")
        for refused, why in (
            (f"{url}verify-full&sslrootcert={wrong}", "certificate verify failed"),
            (verified.replace("localhost", "127.0.0.1"), "does not match host name"),
            (f"{url}disable", "no encryption"),
        ):
            with pytest.raises(StoreError, match=why):
                opened(refused)


# ---- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda c: c.url(password="a-wrong-password"), StoreError, "password authentication failed"),
        (lambda c: c.url(name="nowhere"), StoreError, 'database "nowhere" does not exist'),
        (lambda c: f"postgresql://tester:{QUOTED}@127.0.0.1:1/x", StoreError, "Connection refused"),
        (lambda c: c.url() + "?sslmode=sometimes", StoreError, "invalid sslmode value"),
        (lambda c: c.url() + "?no_such_option=1", ConfigError, "libpq cannot read the URL"),
        (lambda c: f"postgresql://tester:{QUOTED}@[half/x", ConfigError, "libpq cannot read the URL"),
    ],
)
def test_a_database_that_cannot_be_opened_is_a_typed_error_without_its_password(
    postgres: Cluster,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Cluster], str],
    error: type[Exception],
    message: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(error, match=re.escape(message)) as raised, served(make(postgres)):
        pass
    texts = [str(raised.value), repr(raised.value), repr(raised.value.__cause__), caplog.text]
    for secret in (PASSWORD, QUOTED, "a-wrong-password"):
        assert all(secret not in text for text in texts)


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "Postgresql", "mysql"])
def test_another_url_is_refused_and_no_folder_shows_its_password(scheme: str) -> None:
    url = f"{scheme}://tester:{QUOTED}@localhost/x"
    for data in (url, Path(url)):
        with pytest.raises(ConfigError, match=re.escape(f"a URL with '{scheme}' is not supported")) as raised:
            ServeConfig(data=data)
        assert QUOTED not in str(raised.value)


def test_the_command_names_the_database_and_not_its_password(postgres: Cluster) -> None:
    command = [sys.executable, "-m", "zopo_fast", "serve", "--port", "0", "--data"]
    done = subprocess.run(
        [*command, postgres.url(password="a-wrong-password")],
        capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"postgresql://127.0.0.1:{postgres.port}/postgres" in done.stderr
    assert "password authentication failed" in done.stderr
    assert "a-wrong-password" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "zopo_fast.serve.postgres.database")
    with pytest.raises(MissingDependencyError, match=re.escape("zopo-fast[postgres]")):
        Server(ServeConfig(data="postgresql://localhost/x"))
