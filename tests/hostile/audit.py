"""List known vulnerabilities of the dependencies: python tests/hostile/audit.py [--extra NAME ...]

Runs pip-audit on the installed versions of all direct and indirect dependencies of zopo-fast. The exit code
is 1 if there are findings. If pip-audit is missing or its service cannot be reached, the script says so and
exits with 0: it has found nothing, and proved nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
EXTRAS = ("local", "tokens", "plot")
SECONDS = 300


def declared(extras: list[str]) -> list[Requirement]:
    """Return the requirements of pyproject.toml, with those of some extras."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(r for e in extras for r in project["optional-dependencies"][e])]
    return [Requirement(line) for line in lines]


def installed(requirements: list[Requirement]) -> tuple[dict[str, str], list[str]]:
    """Return the installed versions of requirements and their dependencies, and the names not installed."""
    versions: dict[str, str] = {}
    missing: list[str] = []
    queue = [(requirement, "") for requirement in requirements]
    done: set[tuple[str, str]] = set()
    while queue:
        requirement, extra = queue.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            if (name, wanted) in done:
                continue
            done.add((name, wanted))
            try:
                found = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                missing.append(name)
                continue
            versions[name] = found.version
            queue += [(Requirement(line), wanted) for line in found.requires or []]
    return versions, sorted(set(missing))


def audit(versions: dict[str, str]) -> tuple[list[dict[str, Any]] | None, str]:
    """Return the dependencies that pip-audit reports, None if it could not ask, and its output."""
    if importlib.util.find_spec("pip_audit") is None:
        return None, "pip-audit is not installed (pip install pip-audit)"
    with tempfile.TemporaryDirectory() as folder:
        pinned, out = Path(folder) / "requirements.txt", Path(folder) / "audit.json"
        pinned.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
        command = [sys.executable, "-m", "pip_audit", "-r", str(pinned), "--no-deps", "--disable-pip"]
        command += ["--progress-spinner", "off", "--timeout", "15", "-f", "json", "-o", str(out)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return None, f"no answer in {SECONDS} s"
        try:
            found: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))["dependencies"]
        except (OSError, ValueError, KeyError, TypeError):
            return None, (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return found, ""


def main() -> int:
    """Run the audit; return the exit code."""
    parser = argparse.ArgumentParser(description="Audit what the package needs.")
    parser.add_argument("--extra", action="append", help=f"extras to count in; default {', '.join(EXTRAS)}")
    versions, missing = installed(declared(parser.parse_args().extra or list(EXTRAS)))
    if missing:
        print(f"not installed, not audited: {', '.join(missing)}")
    found, why_not = audit(versions)
    asked = [one for one in found or [] if "skip_reason" not in one]
    if not asked:
        why_not = why_not or next((one["skip_reason"] for one in found or []), "nothing came back")
        print(f"COULD NOT RUN: {len(versions)} packages were not audited: {why_not}")
        return 0
    vulnerable = [one for one in asked if one["vulns"]]
    for one in vulnerable:
        for flaw in one["vulns"]:
            fixed = ", ".join(flaw.get("fix_versions") or ["none yet"])
            print(f"{one['name']} {one['version']}: {flaw['id']}, fixed in {fixed}")
    for one in found or []:
        if "skip_reason" in one:
            print(f"passed over: {one['name']}: {one['skip_reason']}")
    print(f"{len(asked)} packages audited, {len(vulnerable)} with known vulnerabilities")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
