"""PostgreSQL under test: a cluster of its own in a temporary folder, from the system's packages.

    with cluster() as running:              # skips the test where the binaries are missing
        url = running.database()            # a new, empty database
        running.restart()

A cluster with `tls` accepts encrypted connections only; `authority` is the certificate that signed its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from port_tools import free_port
from time_tools import HANG, until

USER, PASSWORD = "tester", "a secret/with:signs@"
QUOTED = "a%20secret%2Fwith%3Asigns%40"  # as the URL has it


def binaries() -> Path:
    """Return the folder of the newest PostgreSQL found; skip the test where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    installed = shutil.which("initdb")
    if not found and installed is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    return found[-1].parent if found else Path(str(installed)).parent


class Cluster:
    """PostgreSQL server with a password, on a free port of loopback.

    Args:
        folder: new folder for its files.
        tls: whether to accept encrypted connections only.

    Attributes:
        authority: certificate that signed the server's; None without TLS.
    """

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        self._binaries, self._data, self._count = binaries(), folder / "data", 0
        self._log = folder / "log"
        # The server refuses to run as root.
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as = {"user": "postgres", "group": "postgres", "extra_groups": ()}
            shutil.chown(folder, "postgres", "postgres")
        secret = folder / "secret"
        secret.write_text(PASSWORD)
        self._call(
            "initdb", "--no-sync", "--auth=scram-sha-256", f"--username={USER}", f"--pwfile={secret}",
            "--encoding=UTF8", "--locale=C", f"--pgdata={self._data}",
        )  # fmt: skip
        self.authority = self._certify(folder) if tls else None
        self._options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",  # the tests kill the server, not the machine
            "shared_buffers": "16MB",
            "max_connections": "60",
            "ssl": "on" if tls else "off",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.start()

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / program, *arguments], check=False, capture_output=True, text=True,
            timeout=HANG, cwd=self._data.parent, **self._as,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def _certify(self, folder: Path) -> Path:
        """Make an authority and the server's certificate for `localhost`."""
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        authority = make_authority(folder, "authority")
        (folder / "names").write_text("subjectAltName=DNS:localhost\n")
        subprocess.run(
            ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
             "-keyout", self._data / "server.key", "-out", "request"],
            check=True, capture_output=True, cwd=folder, timeout=HANG,
        )  # fmt: skip
        subprocess.run(
            ["openssl", "x509", "-req", "-in", "request", "-CA", authority, "-CAkey", "authority.key",
             "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", self._data / "server.crt"],
            check=True, capture_output=True, cwd=folder, timeout=HANG,
        )  # fmt: skip
        (self._data / "server.key").chmod(0o600)
        if self._as:
            shutil.chown(self._data / "server.key", "postgres", "postgres")
            shutil.chown(self._data / "server.crt", "postgres", "postgres")
        access = self._data / "pg_hba.conf"
        access.write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
        return authority

    def url(self, name: str = "postgres", host: str = "127.0.0.1", password: str = QUOTED) -> str:
        """Return the address of a database."""
        return f"postgresql://{USER}:{password}@{host}:{self.port}/{name}"

    def connect(self, name: str = "postgres") -> Any:
        """Open a blocking connection in autocommit mode."""
        import psycopg

        return psycopg.connect(self.url(name), autocommit=True, connect_timeout=5)

    def database(self) -> str:
        """Create an empty database; return its address."""
        self._count += 1
        name = f"test_{self._count}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Drop a database that `database` created, with the sessions in it."""
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE {url.rsplit('/', 1)[1]} WITH (FORCE)")

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        options = [f"--{name}={value}" for name, value in self._options.items()]
        # Ends with the tests, also when they are killed; the calling thread must live as long as the cluster.
        guard = [] if shutil.which("setpriv") is None else ["setpriv", "--pdeathsig", "QUIT"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*guard, self._binaries / "postgres", "-D", self._data, "-p", str(self.port), *options],
                stdout=log, stderr=log, cwd=self._data.parent, start_new_session=True, **self._as,
            )  # fmt: skip
        until(self._is_ready)

    def _is_ready(self) -> bool:
        import psycopg

        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, *, immediately: bool = False) -> None:
        """Stop the server: end all sessions in order, or immediately, as after a crash."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT if immediately else signal.SIGINT)
            process.wait(HANG)

    def restart(self, *, immediately: bool = True) -> None:
        """Stop the server and start it on the same port."""
        self.stop(immediately=immediately)
        self.start()


def make_authority(folder: Path, name: str) -> Path:
    """Make a certificate authority; return its certificate."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-days", "2",
         "-keyout", f"{name}.key", "-out", f"{name}.crt"],
        check=True, capture_output=True, cwd=folder, timeout=HANG,
    )  # fmt: skip
    return folder / f"{name}.crt"


@contextmanager
def cluster(**settings: Any) -> Iterator[Cluster]:
    """Run a cluster while the context is open."""
    binaries()
    with tempfile.TemporaryDirectory(prefix="zopo-postgres-") as folder:
        running = Cluster(Path(folder), **settings)
        try:
            yield running
        finally:
            running.stop()
