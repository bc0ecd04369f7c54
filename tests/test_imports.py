"""The rooms of the house: who may import whom, and what importing a core must not bring along."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import pytest

import trio_fcgimail

PACKAGE: Final = "trio_fcgimail"
ROOT: Final = Path(trio_fcgimail.__file__).resolve().parent

# docs/design.md, "Rooms". "" is the package itself, whose version anybody may read.
LAYERS: Final[Mapping[str, int]] = {
    "": -1,
    "smtp": 0,
    "fastcgi": 0,
    "mail": 1,
    "config": 1,
    "server": 2,
    "demo": 2,
    "cli": 3,
    "__main__": 4,
}
CORES: Final = ("smtp", "fastcgi")
FORBIDDEN_IN_CORES: Final = frozenset(
    {"trio", "socket", "ssl", "asyncio", "threading", "subprocess", "time", "random", "logging"}
)
DRAG_THOSE_IN: Final = frozenset({"email.utils", "importlib.metadata"})
NEVER_LOADED: Final = ("trio", "socket", "ssl", "asyncio", "threading", "logging")


@final
@dataclass(frozen=True, slots=True)
class Import:
    """One import statement's target, as an absolute dotted name."""

    path: Path
    line: int
    name: str

    @property
    def room(self) -> str:
        """The room of this package that is imported."""
        return room_of(self.name.split(".")[1:]) if self.ours else "(foreign)"

    @property
    def ours(self) -> bool:
        return self.name.split(".")[0] == PACKAGE

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.name}"


def room_of(parts: list[str]) -> str:
    return parts[0] if parts and parts[0] in LAYERS else ""


def imports_of(path: Path, source: str) -> Iterator[Import]:
    """Every import of a module, within functions as well, relative ones made absolute."""
    package = [PACKAGE, *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (Import(path, node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package[: len(package) - level + 1] if level else []
                stem = [*base, *(module.split(".") if module else [])]
                yield from (Import(path, node.lineno, ".".join([*stem, alias.name])) for alias in names)


MODULES: Final = sorted(ROOT.rglob("*.py"))
IMPORTS: Final = [found for path in MODULES for found in imports_of(path, path.read_text(encoding="utf-8"))]


def room_of_file(path: Path) -> str:
    return room_of([*path.relative_to(ROOT).with_suffix("").parts])


def breaches_of_layers(imports: list[Import]) -> list[Import]:
    """Imports that go upwards, or from one core into anything else of ours; the root may be lazy, so it may do all."""
    return [
        found
        for found in imports
        if found.ours
        and (room := room_of_file(found.path)) not in (found.room, "")
        and (LAYERS[found.room] > LAYERS[room] or (room in CORES and found.room != ""))
    ]


def foreign_to_cores(imports: list[Import]) -> list[Import]:
    """What a core imports beyond the standard library, or of it what does input, output, clocks or chance."""
    return [
        found
        for found in imports
        if room_of_file(found.path) in CORES
        and not found.ours
        and (
            (top := found.name.split(".")[0]) not in sys.stdlib_module_names
            or top in FORBIDDEN_IN_CORES
            or any(f"{found.name}.".startswith(f"{name}.") for name in DRAG_THOSE_IN)
        )
    ]


def circles(imports: list[Import]) -> set[str]:
    """The rooms that import each other, be it by way of others."""
    edges: dict[str, set[str]] = {}
    for found in imports:
        if found.ours and found.room and (room := room_of_file(found.path)) and found.room != room:
            edges.setdefault(room, set()).add(found.room)
    while leaves := {room for room, targets in edges.items() if not targets & edges.keys()}:
        edges = {room: targets for room, targets in edges.items() if room not in leaves}
    return set(edges)


def test_every_module_is_in_a_room() -> None:
    strays = [path for path in MODULES if room_of_file(path) == "" and path.name not in ("__init__.py", "__main__.py")]
    assert strays == []
    assert {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"} <= set(LAYERS)


def test_imports_go_downwards() -> None:
    assert [str(found) for found in breaches_of_layers(IMPORTS)] == []


def test_cores_import_the_standard_library_only_and_nothing_that_does_io() -> None:
    assert [str(found) for found in foreign_to_cores(IMPORTS)] == []


def test_rooms_import_each_other_without_a_circle() -> None:
    assert circles(IMPORTS) == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("smtp/x.py", "import trio", id="core-trio"),
        pytest.param("smtp/x.py", "from time import monotonic", id="core-time"),
        pytest.param("smtp/x.py", "def f():\n    import socket", id="core-within-a-function"),
        pytest.param("fastcgi/x.py", "from email.utils import parseaddr", id="core-email-utils"),
        pytest.param("fastcgi/x.py", "import importlib.metadata", id="core-metadata"),
        pytest.param("fastcgi/x.py", "from email import utils", id="core-email-utils-as-name"),
        pytest.param("fastcgi/x.py", "import msgspec", id="core-third-party"),
        pytest.param("fastcgi/x.py", "from ..smtp import Reply", id="core-other-core"),
        pytest.param("smtp/x.py", "from .. import mail", id="core-upwards"),
        pytest.param("mail/x.py", "from ..server import session", id="upwards-relative"),
        pytest.param("config/x.py", "import trio_fcgimail.cli", id="upwards-absolute"),
        pytest.param("server/x.py", "from trio_fcgimail import __main__", id="upwards-main"),
    ],
)
def test_breach_is_seen(module: str, source: str) -> None:
    """The test of the test: what the rules forbid is found."""
    imports = list(imports_of(ROOT / module, source))
    assert breaches_of_layers(imports) or foreign_to_cores(imports)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("smtp/x.py", "import re\nfrom . import grammar\nfrom .. import __version__", id="core"),
        pytest.param("mail/x.py", "from ..smtp import Reply\nimport time", id="downwards"),
        pytest.param("server/x.py", "from ..demo import responder\nimport trio", id="sideways"),
        pytest.param("__main__.py", "from .cli import main", id="main"),
    ],
)
def test_what_is_allowed_is_no_breach(module: str, source: str) -> None:
    imports = list(imports_of(ROOT / module, source))
    assert breaches_of_layers(imports) == []
    assert foreign_to_cores(imports) == []


def test_circle_is_seen() -> None:
    one, other = ROOT / "server/x.py", ROOT / "demo/x.py"
    there, back = Import(one, 1, f"{PACKAGE}.demo.y"), Import(other, 1, f"{PACKAGE}.server.z")
    assert circles([there]) == set()
    assert circles([there, back]) == {"server", "demo"}


# A fresh interpreter in which trio cannot be imported, as if it were not installed
SCRIPT: Final = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "trio":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
import importlib
importlib.import_module(sys.argv[2])
print(*sorted(name for name in sys.argv[3:] if name in set(sys.modules) - before))
"""


@pytest.mark.parametrize("module", [PACKAGE, f"{PACKAGE}.smtp", f"{PACKAGE}.fastcgi"])
def test_importing_a_core_brings_no_io_along(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT, str(ROOT.parent), module, *NEVER_LOADED],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.split() == []
