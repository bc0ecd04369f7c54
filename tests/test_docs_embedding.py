"""docs/embedding.md must be true: its tables are what the cores say, its code is from the examples or runs."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final, get_args

import pytest
import trio

from trio_fcgimail import fastcgi, smtp

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "embedding.md"
TEXT: Final = PAGE.read_text(encoding="utf-8")
BLOCKS: Final = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
EXAMPLES: Final = {
    path.name: path.read_text(encoding="utf-8")
    for path in (ROOT / "examples").glob("*.py")
    if not path.name.startswith("server_")  # which docs/api.md is about
}
QUOTES: Final = [block for block in BLOCKS if not block.startswith(("import ", "from "))]
SNIPPETS: Final = [block for block in BLOCKS if block.startswith(("import ", "from "))]
PARAMS: Final = [(b"CONTENT_LENGTH", b"400000"), (b"SCRIPT_FILENAME", b"/srv/x.php")]


def rows_below(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    section = TEXT.split(f"\n{heading}\n")[1]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


def code_names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


@pytest.mark.parametrize(
    ("heading", "union"),
    [
        pytest.param("### The events", smtp.Event, id="smtp"),
        pytest.param("### What the client is told", fastcgi.ClientEvent, id="fastcgi-client"),
    ],
)
def test_table_has_every_event_with_its_fields(heading: str, union: object) -> None:
    told = {code_names(event)[0]: code_names(fields) for event, fields, _ in rows_below(heading)}
    true = {event.__name__: [field.name for field in dataclasses.fields(event)] for event in get_args(union)}
    assert told == true
    assert len(rows_below(heading)) == len(true)


@pytest.mark.parametrize("event", get_args(smtp.Event), ids=lambda event: str(event.__name__))
def test_table_says_what_is_owed(event: type) -> None:
    (owed,) = [owed for name, _, owed in rows_below("### The events") if name == f"`{event.__name__}`"]
    if event in get_args(smtp.Answerable):
        assert owed.startswith("answer")
    elif "to_send" in {field.name for field in dataclasses.fields(event)}:
        assert owed.startswith("write `to_send`")
    else:
        assert owed.startswith("nothing to write")


@pytest.mark.parametrize(
    ("heading", "enum"),
    [
        pytest.param("## The contract", smtp.Signal, id="signals"),
        pytest.param("## The contract", fastcgi.Signal, id="fastcgi-signals"),
        pytest.param("### Who closes", smtp.CloseReason, id="close-reasons"),
        pytest.param("### Deadlines", smtp.Waiting, id="waiting-for"),
    ],
)
def test_table_has_every_member(heading: str, enum: type[Enum]) -> None:
    assert [code_names(row[0])[0] for row in rows_below(heading)] == [member.name for member in enum]


def test_table_has_every_error() -> None:
    told = {code_names(row[0])[0] for row in rows_below("### Errors")}
    assert told == {error.__name__ for error in smtp.ProtocolError.__subclasses__()}


def test_every_fence_is_checked() -> None:
    assert len(BLOCKS) == len(re.findall(r"^\s*```\w", TEXT, re.MULTILINE))
    assert len(QUOTES) + len(SNIPPETS) == len(BLOCKS)
    assert QUOTES
    assert SNIPPETS


@pytest.mark.parametrize("quote", [pytest.param(quote, id=quote.strip().splitlines()[0][:50]) for quote in QUOTES])
def test_quote_stands_in_an_example(quote: str) -> None:
    assert [name for name, source in EXAMPLES.items() if f"\n{quote}" in source]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_example_is_named_and_quoted(name: str) -> None:
    assert f"(../examples/{name})" in TEXT
    assert any(f"\n{quote}" in EXAMPLES[name] for quote in QUOTES)


def run_snippet(source: str) -> dict[str, object]:
    namespace: dict[str, object] = {"__name__": "snippet"}
    exec(compile(source, str(PAGE), "exec"), namespace)
    return namespace


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_runs_and_says_something(number: int) -> None:
    assert "\nassert " in SNIPPETS[number] or "async def ask(" in SNIPPETS[number]
    run_snippet(SNIPPETS[number])


@contextmanager
def echo_server(path: Path) -> Iterator[None]:
    """The responder of the examples."""
    command = [sys.executable, str(ROOT / "examples/fastcgi_asyncio.py"), f"unix:{path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"ready ")
            yield
        finally:
            process.terminate()


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_client_snippet_asks_a_responder(library: str, tmp_path: Path) -> None:
    (source,) = [snippet for snippet in SNIPPETS if f"import {library}\n" in snippet]
    ask = run_snippet(source)["ask"]
    assert callable(ask)
    body = bytes(range(256)) * 1562 + bytes(128)

    async def call() -> bytes:
        answer = await ask(str(tmp_path / "s"), PARAMS, body)
        assert isinstance(answer, bytes)
        return answer

    with echo_server(tmp_path / "s"):
        output = asyncio.run(call()) if library == "asyncio" else trio.run(call)
    assert output.startswith(b"Status: 200 OK\r\n")
    assert output.endswith(b"\nSCRIPT_FILENAME=/srv/x.php\n\n" + body)


def test_links_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]*)\)", TEXT):
        path, _, anchor = target.partition("#")
        assert not path or (PAGE.parent / path).exists(), target
        assert not anchor or anchor in anchors, target
    assert "(docs/embedding.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
