"""Says which recipients exist, and stores each mail as a file. Copy it and make it yours.

It is a WSGI application and needs something that runs one behind FastCGI, here fcgisgi (`pip install fcgisgi`):

    FCGIMAIL_DIR=/srv/mail spawn-fcgi -n -s /run/fcgimail/app.sock -- /usr/bin/python3 handler.py

flup runs it as well. FCGIMAIL_DIR names the folder for the mails, FCGIMAIL_RCPTS the recipients, with spaces between
them; while nobody is named, everybody passes.
"""

import asyncio
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

KNOWN = os.environ.get("FCGIMAIL_RCPTS", "").lower().split()


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """One request."""
    try:
        text = answer(read_fields(environ))
    except Exception as error:  # noqa: BLE001 - whatever it is, the mail is not stored
        print(f"handler.py: {error}", file=environ["wsgi.errors"])  # goes to the log of the mail server
        text = "451 4.3.0 could not do it now, try again later"
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode()]


def read_fields(environ: "WSGIEnvironment") -> dict[str, bytes]:
    """The fields; not by a library for forms, as the values are octets and not text."""
    form = environ.get("QUERY_STRING", "").encode("latin-1")
    if environ["REQUEST_METHOD"] == "POST":
        length = int(environ["CONTENT_LENGTH"])
        form = environ["wsgi.input"].read(length)
        if len(form) != length:
            raise EOFError("the request was cut")
    pairs = (pair.replace(b"+", b" ").partition(b"=") for pair in form.split(b"&"))
    return {unquote_to_bytes(name).decode(): unquote_to_bytes(value) for name, _, value in pairs}


def answer(fields: Mapping[str, bytes]) -> str:
    """What to say; an exception stands for "try again later"."""
    match fields["stage"]:
        case b"validate":
            return validate(fields["rcpt_to"].decode().lower())
        case b"save":
            return save(fields, Path(os.environ["FCGIMAIL_DIR"]))
        case stage:
            raise ValueError(f"unknown stage {stage!r}")


def validate(recipient: str) -> str:
    """May this recipient get mail?"""
    # RFC 5321, section 4.5.1: there is always a postmaster.
    if not KNOWN or recipient in KNOWN or recipient.startswith("postmaster@"):
        return "PASSED"
    return "550 5.1.1 no such user"


def save(fields: Mapping[str, bytes], folder: Path) -> str:
    """Store a mail, or raise: SAVED must not be said of a mail that is not on the disk."""
    body, digest = fields["body"], fields["mail_digest"].decode()
    if len(body) != int(fields["size"]):
        raise ValueError("the mail is not complete")
    if not re.fullmatch("[0-9a-f]{64}", digest):  # it becomes a file name
        raise ValueError("mail_digest is missing")

    # Under another name first: nobody ever sees half a mail. The same mail again replaces the first.
    draft = folder / f"{digest}.{secrets.token_hex(6)}.tmp"
    try:
        with open(draft, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(folder / f"{digest}.eml")
    finally:
        draft.unlink(missing_ok=True)
    entries = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entries)  # the new name must survive a power cut too
    finally:
        os.close(entries)
    return f"SAVED id={digest[:16]}"


if __name__ == "__main__":
    from fcgisgi import run_wsgi_server

    asyncio.run(run_wsgi_server(application))  # on the socket that spawn-fcgi opened
