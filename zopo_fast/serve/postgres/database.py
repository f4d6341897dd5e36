"""PostgreSQL database of a fleet: connections, the package's own schema and its migrations.

TLS, timeouts and several hosts are settings of the URL, which libpq reads. Messages name the address, and
perhaps the user, as libpq states it, but never the password.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, TypeVar

from zopo_fast.errors import (
    ConfigError,
    MissingDependencyError,
    StoreError,
    StoreFullError,
    StoreVersionError,
)

try:
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from psycopg_pool import AsyncConnectionPool
except ImportError as error:
    raise MissingDependencyError(
        "PostgreSQL needs psycopg 3.2 or later with its pool: pip install 'zopo-fast[postgres]'"
    ) from error

T = TypeVar("T")
SCHEMA = "zopo_fast"
RETRY_SECONDS = 10.0  # that a request waits for a database that restarts
MAX_CONNECTIONS = 8  # of a replica, for this package's own statements
_LOCK = 0x7A6F706F  # key of the advisory lock that one migration at a time holds
_RECONNECT_SECONDS = 5.0  # short, because the pool doubles the pause between its attempts
_MIGRATION = re.compile(r"(\d{4})_\w+\.sql")
# A host that vanishes must not block a request: libpq's own defaults are hours.
_DEFAULTS = {
    "application_name": "zopo-fast",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
}
_SETUP: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("SELECT set_config('search_path', %s, false)", (SCHEMA,)),
    # Only `off` is raised: `remote_apply` and the like promise more.
    (
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') = 'off'",
        (),
    ),
    # A server that vanishes in a transaction must not lock its rows for hours.
    ("SELECT set_config('idle_in_transaction_session_timeout', %s, false)", ("15s",)),
)
_TRANSIENT = ("08", "40", "57P0", "25006", "53300", "55P03")  # prefixes of SQLSTATE codes


class Database:
    """Connection pool of a database, whose connections see the package's schema first.

    Connections are in autocommit mode. Statements are durable when they return, also where the database's
    default is an asynchronous commit.

    Args:
        url: address for libpq, such as `postgresql://user@host/name?sslmode=verify-full`.

    Attributes:
        name: address without user, password and options, for messages.
        conninfo: connection string for libpq, with the password if the URL has one.
        pool: the connections; usable from `open` to `close`.

    Raises:
        ConfigError: libpq cannot read the URL.
    """

    def __init__(self, url: str) -> None:
        try:
            given = conninfo_to_dict(url)
        except psycopg.Error:
            # Libpq's message quotes the URL, and with it the password.
            raise ConfigError(
                "data: libpq cannot read the URL; write postgresql://USER@HOST:PORT/NAME?OPTION=VALUE and "
                "percent-encode special characters"
            ) from None
        self.conninfo: str = make_conninfo(**{**_DEFAULTS, **given})
        address = ":".join(str(given[key]) for key in ("host", "port") if given.get(key))
        self.name = f"postgresql://{address}/{given.get('dbname', '')}"
        self.pool: Any = self.create_pool(max_size=MAX_CONNECTIONS)

    def create_pool(self, **settings: Any) -> Any:
        """Create another connection pool of the database, closed.

        Args:
            **settings: of `psycopg_pool.AsyncConnectionPool`.
        """
        settings = {"min_size": 1, "reconnect_timeout": _RECONNECT_SECONDS, **settings}
        settings["kwargs"] = {"autocommit": True, **settings.get("kwargs", {})}
        return AsyncConnectionPool(self.conninfo, open=False, configure=configure, **settings)

    def connect(self) -> Any:
        """Open a connection for a thread, which is set up as those of the pool.

        Raises:
            psycopg.Error: the database cannot be reached.
        """
        connection = psycopg.connect(self.conninfo, autocommit=True)
        try:
            for statement, values in _SETUP:
                connection.execute(statement, values)
        except BaseException:
            connection.close()
            raise
        return connection

    async def open(self) -> None:
        """Migrate the schema to this version of the package, and open the pool.

        Raises:
            StoreVersionError: a newer version of the package migrated the database.
            StoreError: the database cannot be reached or migrated.
        """
        try:
            async with await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True) as connection:
                await self._migrate(connection)
        except StoreError:
            raise
        except (psycopg.Error, OSError) as error:
            raise self.as_store_error(error) from error
        await self.pool.open()

    async def close(self) -> None:
        """Close the pool."""
        await self.pool.close()

    async def retry(self, work: Callable[[Any], Awaitable[T]], limit: float = RETRY_SECONDS) -> T:
        """Run work on a connection; run it again while the database cannot be reached.

        Args:
            work: called with a connection. Running it again must be harmless: the outcome of a statement is
                unknown when the connection is lost.
            limit: seconds of one attempt.

        Returns:
            The result of the work.

        Raises:
            StoreError: the database refuses the work, or stayed out of reach for `RETRY_SECONDS`.
        """
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + RETRY_SECONDS, 0.05
        while True:
            left = max(0.0, end - loop.time())
            try:
                async with asyncio.timeout(limit), self.pool.connection(timeout=left) as connection:
                    try:
                        return await work(connection)
                    except psycopg.errors.ReadOnlySqlTransaction:
                        await connection.close()  # a former primary: the next connection finds the new one
                        raise
            except StoreError:
                raise
            except (psycopg.Error, OSError) as error:  # TimeoutError is an OSError
                if not is_transient(error) or loop.time() + pause >= end:
                    raise self.as_store_error(error) from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.5)

    async def transaction(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Run work in a transaction, and again as `retry` does."""

        async def attempt(connection: Any) -> T:
            async with connection.transaction():
                return await work(connection)

        return await self.retry(attempt)

    async def fetch(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement, and again as `retry` does; return its rows."""

        async def attempt(connection: Any) -> list[tuple[Any, ...]]:
            return list(await (await connection.execute(query, values)).fetchall())

        return await self.retry(attempt)

    async def delete(self, statement: str, value: object, limit: float = RETRY_SECONDS) -> bool:
        """Run a DELETE, and again as `retry` does.

        Returns:
            False if there was no row to delete. True after a lost answer: that attempt may have deleted it.
        """
        attempts = 0

        async def attempt(connection: Any) -> bool:
            nonlocal attempts
            attempts += 1
            done = await connection.execute(statement, (value,))
            return bool(done.rowcount or attempts > 1)

        return await self.retry(attempt, limit)

    def as_store_error(self, error: Exception) -> StoreError:
        """Translate an error of the database to a typed one that names the database."""
        if isinstance(error, StoreError):
            return error
        if isinstance(error, psycopg.errors.DiskFull):
            return StoreFullError(f"{self.name}: the disk of the database is full; free space there")
        if isinstance(error, TimeoutError):
            return StoreError(f"{self.name}: the database does not answer; check that it runs")
        text = " ".join(str(error).split())
        return StoreError(f"{self.name}: {text or type(error).__name__}; check the database and the URL")

    async def _migrate(self, connection: Any) -> None:
        schema = sql.Identifier(SCHEMA)
        async with connection.transaction():
            # Two replicas that start at once migrate one after the other.
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            found = await connection.execute("SELECT to_regnamespace(%s)", (SCHEMA,))
            if (await found.fetchone())[0] is None:  # IF NOT EXISTS alone would need the right to create
                await connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
            await configure(connection)
            found = await connection.execute("SELECT to_regclass('migration')")
            if (await found.fetchone())[0] is None:
                await connection.execute(
                    "CREATE TABLE migration "
                    "(number int PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now())"
                )
            found = await connection.execute("SELECT coalesce(max(number), 0) FROM migration")
            (version,) = await found.fetchone()
            known = migrations()
            if version > max(known):
                raise StoreVersionError(
                    f"{self.name}: version {version}, but this package reads up to {max(known)}; upgrade the "
                    "package"
                )
            for number in sorted(number for number in known if number > version):
                await connection.execute(known[number])
                await connection.execute("INSERT INTO migration (number) VALUES (%s)", (number,))


def is_transient(error: Exception) -> bool:
    """Return whether the same statement can succeed on a new connection."""
    code = getattr(error, "sqlstate", None)
    if code is None:  # not from the server: the connection was lost or could not be made
        return isinstance(error, OSError | psycopg.OperationalError | psycopg.InterfaceError)
    return str(code).startswith(_TRANSIENT)


async def configure(connection: Any) -> None:
    """Set up a new connection: the schema first, and commits that are durable when they return."""
    for statement, values in _SETUP:
        await connection.execute(statement, values)


def migrations() -> dict[int, str]:
    """Read the package's migrations: number and SQL."""
    found = {}
    for entry in files("zopo_fast.serve.postgres").joinpath("migrations").iterdir():
        match = _MIGRATION.fullmatch(entry.name)
        if match:
            found[int(match[1])] = entry.read_text(encoding="utf-8")
    return found
