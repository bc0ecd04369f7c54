"""The mail server within a program of one's own: settings in code, started in a nursery, stopped by a call.

    python examples/server_embedded.py FOLDER [PORT]

Takes mail for alice and bob at example.com on 127.0.0.1, port 2525 unless another is named, and stores it in
FOLDER/alice and FOLDER/bob, each a Maildir. The first line tells the address. SIGINT and SIGTERM end it.
"""

import signal
import sys
from pathlib import Path

import trio

from trio_fcgimail import ConfigErrors, Service, Settings, StartError, make_settings, serve


def settings(folder: Path, port: int) -> Settings:
    """What a TOML file would say, by the same keys."""
    return make_settings(
        {
            "hostname": "mx.example.com",
            "allowed_hosts": ["example.com"],
            "listeners": [{"address": f"127.0.0.1:{port}"}],
            "chain": {"save": ["MailDir"], "validate": []},
            "maildir": {"path": f"{folder}/[user]", "user_map": {"alice": "", "bob": "", "postmaster": ""}},
            "drain_seconds": 5,
        }
    )


async def main(folder: Path, port: int) -> None:
    async with trio.open_nursery() as nursery:
        service: Service = await nursery.start(serve, settings(folder, port))
        print("listening on", *service.addresses, flush=True)
        await end_of_the_program()  # whatever else this program does
        service.stop()  # who is connected may finish a mail; then serve returns, and the nursery is left
    print("stopped")


async def end_of_the_program() -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return


if __name__ == "__main__":
    try:
        trio.run(main, Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 2525)
    except* (ConfigErrors, StartError) as group:  # a line for each thing that is wrong
        sys.exit("\n".join(map(str, group.exceptions)))
