"""Looks for known weaknesses in the packages that this one needs at run time: ``python -m tests.audit``.

Three checks, each of which says what it has looked at:

1. The versions that are installed, and the lowest that pyproject.toml lets in, against the advisories below. It needs
   nobody, and knows what was known when it was written.
2. pip-audit, against the service of PyPI. Whether that answers is known by a package that is known to be vulnerable:
   behind some proxies it finds everything unknown, and everything good.
3. pip, whether the registry has withdrawn one of the versions.

What cannot be asked is told and does no harm. The exit code is 1 when something was found.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, cast, final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PYPROJECT: Final = Path(__file__).parents[1] / "pyproject.toml"
SECONDS: Final = 120.0
_YANKED: Final = re.compile(r"yanked version: '(?P<name>[^']+)' candidate \(version (?P<version>\S+)")


@final
@dataclass(frozen=True, slots=True)
class Package:
    """One version of a package, by its canonical name."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


@final
@dataclass(frozen=True, slots=True)
class Advisory:
    """A weakness that became known.

    Args:
        fixed: the first version without it.
    """

    package: str
    fixed: str
    number: str


ADVISORIES: Final = (
    Advisory("h11", "0.16.0", "CVE-2025-43859"),
    Advisory("h2", "4.3.0", "CVE-2025-57804"),
    Advisory("idna", "3.7", "CVE-2024-3651"),
    Advisory("pygments", "2.15.1", "CVE-2022-40896"),
    Advisory("starlette", "0.40.0", "CVE-2024-47874"),
    Advisory("starlette", "0.47.2", "CVE-2025-54121"),
    Advisory("starlette", "0.49.1", "CVE-2025-62727"),
)
CANARY: Final = Package("jinja2", "2.10")  # CVE-2019-10906 and others


def needed(pyproject: str) -> list[Requirement]:
    """What a pyproject.toml names for those who serve, the status page included; the rest is for developers."""
    project = tomllib.loads(pyproject)["project"]
    return [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["status"])]


def installed(requirements: Iterable[Requirement]) -> list[Package]:
    """What is installed of them, and of all that they need in turn."""
    found: dict[str, Package] = {}
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found:
            found[name] = Package(name, metadata.version(name))
            waiting += _needs(name, requirement.extras)
    return sorted(found.values(), key=str)


def _needs(name: str, extras: Iterable[str]) -> Iterator[Requirement]:
    for requirement in map(Requirement, metadata.requires(name) or ()):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def floors(requirements: Iterable[Requirement]) -> list[Package]:
    """The lowest versions that they let in."""
    return [
        Package(canonicalize_name(one.name), specifier.version)
        for one in requirements
        for specifier in one.specifier
        if specifier.operator == ">="
    ]


def advised(packages: Iterable[Package]) -> Iterator[str]:
    """The advisories that hold for them, of those above."""
    for package in packages:
        for advisory in ADVISORIES:
            if advisory.package == package.name and Version(package.version) < Version(advisory.fixed):
                yield f"{package}: {advisory.number}, fixed in {advisory.fixed}"


def audited(
    packages: Sequence[Package], command: Sequence[str] = (sys.executable, "-m", "pip_audit")
) -> list[str] | None:
    """What pip-audit finds in them; None when there is no pip-audit, or no service that knows the canary.

    Args:
        command: how pip-audit is called.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("".join(f"{one}\n" for one in (*packages, CANARY)))
        options = ("--no-deps", "--disable-pip", "--requirement", str(file), "--format", "json")
        done = _run([*command, *options, "--progress-spinner", "off"])
    try:
        report = json.loads(done)
        found = {one["name"]: [vuln["id"] for vuln in one.get("vulns", ())] for one in report["dependencies"]}
    except (ValueError, KeyError, TypeError):
        return None
    if not found.pop(CANARY.name, None):
        return None
    return [f"{name}: {', '.join(numbers)}" for name, numbers in cast(dict[str, list[str]], found).items() if numbers]


def yanked(packages: Sequence[Package], options: Sequence[str] = ()) -> list[str] | None:
    """Those that the registry has withdrawn; None when it cannot be asked.

    Args:
        options: of pip, to ask another registry.
    """
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--no-deps"]
    done = _run([*command, "--report", "-", *options, *map(str, packages)], errors=True)
    if '"install"' not in done:  # there is no report
        return None
    return [f"{found['name']}=={found['version']}: yanked" for found in _YANKED.finditer(done)]


def _run(command: Sequence[str], *, errors: bool = False) -> str:
    """What a program prints, and with ``errors`` what it writes to STDERR; nothing when it takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + (done.stderr if errors else "")


def main() -> int:
    """Look, tell, and give the exit code."""
    requirements = needed(PYPROJECT.read_text(encoding="utf-8"))
    packages, lowest = installed(requirements), floors(requirements)
    found = sorted({*advised(packages), *advised(lowest)})
    print(f"audit: {len(packages)} packages and {len(lowest)} lowest versions, {len(ADVISORIES)} advisories of our own")
    known = audited(packages)
    print("audit: PyPI's service of advisories " + ("cannot be asked" if known is None else "was asked by pip-audit"))
    withdrawn = yanked(packages)
    print("audit: the registry " + ("cannot be asked" if withdrawn is None else "was asked for withdrawn versions"))
    found += [*(known or ()), *(withdrawn or ())]
    for problem in found:
        print(f"audit: {problem}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
