"""The example, save for some recipients: then what goes wrong in life.

Usage: trial.py fcgisgi|flup, with the socket as standard input.
"""

import asyncio
import io
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))
from examples.python import handler

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Read the input twice: once to see whom it is for, once more by the example."""
    form = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    recipient = handler.read_fields(environ | {"wsgi.input": io.BytesIO(form)}).get("rcpt_to_0")
    match recipient:
        case b"rejects@example.com":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"550 5.7.1 Not this one"]
        case b"noisy@example.com":
            environ["wsgi.errors"].write("noise of the script")
        case b"slow@example.com":
            time.sleep(60)
        case b"dies@example.com":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"half@example.com":
            return half(start_response)
    return handler.application(environ | {"wsgi.input": io.BytesIO(form)}, start_response)


def half(start_response: "StartResponse") -> Iterable[bytes]:
    """Say SAVED and die. The answer is written by another thread, which has had its time when this one is back."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"SAVED"
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)


if sys.argv[1] == "flup":
    from flup.server.fcgi import WSGIServer

    WSGIServer(application).run()
else:
    from fcgisgi import run_wsgi_server

    asyncio.run(run_wsgi_server(application))
