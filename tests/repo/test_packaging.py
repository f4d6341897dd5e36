"""Files in packaging: the recipe for conda, and the image of the server, whose command runs here as in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from doc_tools import PAGES, ROOT, blocks_of
from port_tools import free_port
from serve_tools import TOKEN, Client
from time_tools import HANG

from zopo_fast.serve.config import ServerLimits

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKER = ROOT / "packaging" / "docker"
PORT = "8321"


def test_the_table_of_extras_has_every_extra_for_users() -> None:
    rows = re.findall(
        r"^\| `([\w-]+)` \| .+ \| ([\d.]+) \|$", PAGES["docs/integrations/index.md"], re.MULTILINE
    )
    names = [name for name, _ in rows]
    extras = set(PROJECT["project"]["optional-dependencies"])
    of_developers = {"bench", "bench-jax", "bench-model", "peers", "docs", "test"}
    of_others = {"plot", "bridges"}
    assert sorted(names) == sorted(extras - of_developers - of_others)
    assert all(f"`{name}`" in PAGES["docs/integrations/index.md"] for name in of_others)


# ---- conda ---------------------------------------------------------------------------------------------


def normal(requirements: list[str]) -> set[str]:
    """Return requirements as conda writes them: a space before the range."""
    return {re.sub(r"^([\w.-]+)\s*([<>=!~].*)$", r"\1 \2", each) for each in requirements}


def test_the_recipe_states_what_the_project_states() -> None:
    recipe = pytest.importorskip("yaml").safe_load((ROOT / "packaging/conda/recipe.yaml").read_text())
    project = PROJECT["project"]
    assert recipe["schema_version"] == 1
    assert recipe["context"]["version"] == project["version"]
    assert recipe["package"]["name"] == project["name"]
    needs = recipe["requirements"]
    assert normal(needs["run"]) == normal(project["dependencies"]) | {"python"}
    assert normal(needs["host"]) == normal(PROJECT["build-system"]["requires"]) | {"python", "pip"}
    build = normal([each for each in needs["build"] if isinstance(each, str)])
    settings = PROJECT["tool"]["scikit-build"]
    assert {f"cmake {settings['cmake']['version']}", "ninja"} <= build
    oldest = project["requires-python"].removeprefix(">=")
    assert f'match(python, "<{oldest}")' in recipe["build"]["skip"]
    for name, value in PROJECT["tool"]["cibuildwheel"]["config-settings"].items():
        assert f"-C {name}={value}" in recipe["build"]["script"]
    about = recipe["about"]
    assert about["license"] == project["license"]
    assert about["license_file"] in project["license-files"]
    assert about["repository"] == project["urls"]["Repository"]
    assert (ROOT / "packaging/conda" / recipe["source"]["path"]).resolve() == ROOT


# ---- image ---------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def last_stage() -> dict[str, str]:
    """Return the last instruction of each name in the stage that becomes the image."""
    found = instructions()
    start = max(i for i, (name, _) in enumerate(found) if name == "FROM")
    return dict(found[start:])


def test_the_image_is_built_from_pinned_bases_and_known_files() -> None:
    found = instructions()
    bases = [rest for name, rest in found if name == "FROM"]
    pinned = [re.fullmatch(r"python:(3\.\d+)-slim( AS \w+)?", base) for base in bases]
    (version,) = {python[1] if python else None for python in pinned}
    assert f"Programming Language :: Python :: {version}" in PROJECT["project"]["classifiers"]
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = [
        path for name, rest in found if name == "COPY" and "--from" not in rest for path in rest.split()[:-1]
    ]
    assert set(copied) == sent
    packages = set(PROJECT["tool"]["scikit-build"]["wheel"]["packages"].values())
    files = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert set(copied) == {"pyproject.toml", "CMakeLists.txt", "csrc"} | packages | files
    assert all((ROOT / path).exists() for path in copied)
    assert not any(name == "ADD" for name, _ in found)
    extras = next(rest for name, rest in found if name == "ARG").removeprefix("EXTRAS=").split(",")
    assert set(extras) <= set(PROJECT["project"]["optional-dependencies"])


def test_no_secret_is_written_into_the_image() -> None:
    for name, rest in instructions():
        if name in {"ARG", "ENV", "COPY", "RUN", "LABEL"}:
            assert not re.search(r"token(?!s)|secret|password|api_?key", rest, re.IGNORECASE), rest


def test_the_image_runs_as_an_unprivileged_user_and_gets_its_signals() -> None:
    stage = last_stage()
    user, group = map(int, stage["USER"].split(":"))
    assert user > 999
    assert group > 999
    entry = json.loads(stage["ENTRYPOINT"])  # the exec form: no shell between the signals and the server
    assert entry[:2] == ["zopo-fast", "serve"]
    assert entry[entry.index("--port") + 1] == stage["EXPOSE"] == PORT
    assert entry[entry.index("--data") + 1] == stage["VOLUME"] == stage["WORKDIR"]
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert f":{PORT}/healthz" in stage["HEALTHCHECK"]


def test_the_documents_start_the_image_as_it_is() -> None:
    yaml = pytest.importorskip("yaml")
    compose, deployment = (
        yaml.safe_load(block.code) for block in blocks_of("docs/docker.md") if block.language == "text"
    )
    stage = last_stage()
    user, group = map(int, stage["USER"].split(":"))
    service = compose["services"]["zopo-fast"]
    assert service["read_only"] is True
    assert service["volumes"][0].split(":")[1] == stage["VOLUME"]
    assert service["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    assert {f"/run/secrets/{name}" for name in compose["secrets"]} <= set(service["command"])
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    security = pod["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (user, group, group)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert [port["containerPort"] for port in container["ports"]] == [int(PORT)]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == [stage["VOLUME"], "/tmp"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in stage["HEALTHCHECK"]
    needed = 2 * ServerLimits().stop_timeout
    assert pod["terminationGracePeriodSeconds"] > needed
    assert int(service["stop_grace_period"].removesuffix("s")) > needed


def health_command(port: int) -> list[str]:
    """Return the command of the health check for another port."""
    command = json.loads(last_stage()["HEALTHCHECK"].partition("CMD ")[2])
    return [part.replace(PORT, str(port)) for part in command]


def image_root(folder: Path) -> str:
    """Return shell commands that make a read-only root below a folder, with this machine's programs.

    As by `docker run --read-only --tmpfs /tmp -v DATA:/data`; for a mount namespace of their own.
    """
    root = folder / "root"
    own = {Path(sys.prefix), Path(sys.base_prefix), ROOT, *(Path(path) for path in sys.path if path)}
    own.discard(Path("/tmp"))  # holds a checkout there; as a whole it would hide the writable one
    lines = ["set -eu", "mount --make-rprivate /", f"mount -t tmpfs none {root}"]
    for top in sorted(Path("/").iterdir()):
        inside = root / top.name
        if top.is_symlink():
            lines.append(f"ln -s {top.readlink()} {inside}")
        elif top.is_dir() and top.name not in {"tmp", "data"}:
            lines += [f"mkdir {inside}", f"mount --rbind {top} {inside}"]
            if top.name not in {"dev", "proc", "sys"}:
                lines.append(f"mount -o remount,bind,ro {inside}")
    lines += [f"mkdir {root}/tmp {root}/data", f"mount -t tmpfs -o mode=1777 none {root}/tmp"]
    for path in sorted(path for path in own if path.is_relative_to("/tmp") and path.is_dir()):
        inside = root / path.relative_to("/")
        lines += [f"mkdir -p {inside}", f"mount --bind {path} {inside}", f"mount -o remount,bind,ro {inside}"]
    return "\n".join([*lines, f"mount --bind {folder}/data {root}/data", f"mount -o remount,ro {root}", ""])


def inside(folder: Path, command: list[str]) -> list[str]:
    """Return a command that runs another one as the image would: its user, root, home and folder.

    The user may read what it has no permission for: Python may lie in the home folder of root.
    """
    user, group = last_stage()["USER"].split(":")
    enter = [
        "setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs",
        "--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=-all,+dac_read_search", *command,
    ]  # fmt: skip
    script = (
        image_root(folder) + f'cd {folder}/root && exec chroot . /bin/sh -c \'cd /data && exec "$@"\' sh "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", script, "sh", *enter]


@contextmanager
def contained(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run the entry point of the image; its data folder is `folder`/data."""
    entry = [*json.loads(last_stage()["ENTRYPOINT"]), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": "/data",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "ZOPO_FAST_TOKEN": TOKEN,
    }
    process = subprocess.Popen(
        inside(folder, entry), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert "Listening on" in line, process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


is_container_like = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "chroot"))),
    reason="only root makes a read-only root file system of its own",
)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Return a folder with the data folder of the image's user."""
    (tmp_path / "root").mkdir()
    (tmp_path / "data").mkdir(mode=0o700)
    os.chown(tmp_path / "data", *map(int, last_stage()["USER"].split(":")))
    return tmp_path


@is_container_like
def test_the_root_of_the_test_is_that_of_the_image(volume: Path) -> None:
    """Otherwise the next test could pass although the server writes beside its data."""
    script = (
        "id -u; for path in / /usr /var/tmp /root "
        + f"{ROOT} {sys.prefix}; do touch $path/written && echo $path; done;"
        "touch /data/written /tmp/written && echo ok"
    )
    done = subprocess.run(
        inside(volume, ["sh", "-c", script]), capture_output=True, text=True, timeout=HANG, check=True
    )
    assert done.stdout.split() == ["10001", "ok"]


@is_container_like
def test_the_server_of_the_image_needs_nothing_but_its_volume(volume: Path) -> None:
    port = free_port()
    check = [sys.executable, *health_command(port)[1:]]
    proxied = {**os.environ, "http_proxy": "http://127.0.0.1:9"}

    def health() -> int:
        return subprocess.run(check, capture_output=True, timeout=HANG, env=proxied, check=False).returncode

    assert health() == 1
    study = ""
    for _ in range(2):  # the second start finds what the first one wrote
        with contained(volume, port) as process:
            assert health() == 0
            with Client(f"http://127.0.0.1:{port}", TOKEN) as call:
                study = study or call.study()
                assert call.ok("GET", f"/v1/studies/{study}")["id"] == study
            process.send_signal(signal.SIGTERM)
            assert process.wait(HANG) == 0
    assert health() == 1
