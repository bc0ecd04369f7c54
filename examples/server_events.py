"""Being told what happens in the server, and changing its settings while it runs.

    python examples/server_events.py fcgimail.toml

Prints a line for each connection and each mail. SIGHUP reads the file again, SIGUSR1 opens the log file anew, SIGINT
and SIGTERM end it.
"""

import contextlib
import signal
import sys
from functools import partial
from pathlib import Path

import trio

from trio_fcgimail import (
    ConfigErrors,
    ConnectionOpened,
    Event,
    Events,
    MailJudged,
    Reloaded,
    Service,
    Settings,
    StartError,
    load_settings,
    serve,
)


def tell_connection(event: ConnectionOpened) -> None:
    print("connection from", event.peer.ip, flush=True)


def tell_mail(event: MailJudged) -> None:
    report = event.report
    print(report.envelope.sender, report.subject, report.octets, report.verdict.reply.text, sep=" | ", flush=True)


def tell_reload(event: Reloaded) -> None:
    print(
        "largest mail was", event.before.limits.message_octets, "and is", event.after.limits.message_octets, flush=True
    )


class Recent:
    """A subscriber that must wait for something takes the events from a channel."""

    def __init__(self, events: Events) -> None:
        self.send, self.receive = trio.open_memory_channel[Event](100)
        events.subscribe(Event, self.take)  # of every kind

    def take(self, event: Event) -> None:
        with contextlib.suppress(trio.WouldBlock):  # too slow: lost, so that the server never waits
            self.send.send_nowait(event)

    async def watch(self) -> None:
        async for event in self.receive:
            await trio.to_thread.run_sync(partial(print, "  ", type(event).__name__, flush=True))


def read(path: Path) -> Settings:
    return load_settings(path, default_hostname="localhost")


async def obey(service: Service, path: Path) -> None:
    numbers = (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT, signal.SIGTERM)
    with trio.open_signal_receiver(*numbers) as signals:
        async for number in signals:
            if number == signal.SIGHUP:
                try:
                    await service.reload(read(path))
                except (ConfigErrors, StartError) as exc:
                    print("the old settings stay:", exc, flush=True)
            elif number == signal.SIGUSR1:
                service.reopen_logs()
            else:
                service.stop()
                return


async def main(path: Path) -> None:
    events = Events()
    events.subscribe(ConnectionOpened, tell_connection)
    events.subscribe(MailJudged, tell_mail)
    events.subscribe(Reloaded, tell_reload)
    recent = Recent(events)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recent.watch)
        async with trio.open_nursery() as serving:
            service = await serving.start(partial(serve, read(path), events=events))
            print("listening on", *service.addresses, flush=True)
            await obey(service, path)
        recent.send.close()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
