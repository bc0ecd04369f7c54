"""An SMTP server on Trio, many clients at once, that asks an async function about each recipient and each mail.

    python examples/smtp_trio.py [HOST:PORT [CERTIFICATE]]

The first line tells the address, ``127.0.0.1:2525`` unless another is named; port 0 takes any free one. Then one line
for each mail. With a certificate, a PEM file that holds its key too, STARTTLS is offered, and behind it AUTH to who
knows the password of ``USERS``. SIGINT and SIGTERM end it: whoever waits in a session is told 421 first.
"""

from __future__ import annotations

import contextlib
import hmac
import signal
import ssl
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import assert_never

import trio

from trio_fcgimail.smtp import (
    Authenticate,
    CommandAnswered,
    CommandRejected,
    Connected,
    ConnectionClosed,
    Credentials,
    DataBegun,
    Event,
    Hello,
    Mailbox,
    MailFrom,
    Mechanism,
    MessageChunk,
    MessageEnd,
    MessageRefused,
    RcptTo,
    RemoteProtocolError,
    Reply,
    ServerConnection,
    ServerOptions,
    Signal,
    StartTls,
    Tls,
    TransactionReset,
    Waiting,
    Xclient,
    catalogue,
)

OPTIONS = ServerOptions(
    hostname="localhost", max_message_octets=1 << 20, auth_mechanisms=frozenset(Mechanism)
)  # over TLS alone, as auth_channel has it
USERS = {"alice": "wonderland"}  # where a real server has a script, a directory or hashes
COMMAND_SECONDS = 300.0  # RFC 5321 4.5.3.2.7; for a whole command, however it trickles in
DATA_SECONDS = 180.0  # ours: of silence within a message; RFC 5321 4.5.3.2.5 grants the client as much for a block
ANSWER_SECONDS = 60.0  # ours: for the two questions below; clients wait at least five minutes (RFC 5321 4.5.3.2.3)
HANDSHAKE_SECONDS = 30.0  # ours
SEND_SECONDS = 60.0  # ours: for a client to take its replies
GOODBYE_SECONDS = 2.0  # ours: for the last reply to arrive
READ_OCTETS = 65_536  # a quarter of what the core's buffer holds


async def refuses_recipient(recipient: Mailbox) -> Reply | None:
    """Look a recipient up; here there is but one who is unknown."""
    await trio.lowlevel.checkpoint()  # a database would be asked here, while other clients go on
    return catalogue.NO_SUCH_USER if recipient.local_part == "nobody" else None


async def refuses_login(credentials: Credentials) -> Reply | None:
    """Check a password, in a time that tells nothing of it; only here it is revealed."""
    await trio.lowlevel.checkpoint()
    expected = USERS.get(credentials.username, "")
    is_right = hmac.compare_digest(credentials.password.reveal().encode(), expected.encode())
    return None if is_right else catalogue.BAD_CREDENTIALS  # a password is never empty


async def refuses_mail(sender: Mailbox | None, recipients: Sequence[Mailbox], content: bytes) -> Reply | None:
    """Store a mail; whoever returns None has it in safety, as the client forgets it then."""
    await trio.lowlevel.checkpoint()
    if b"\r\nX-Refuse: yes\r\n" in b"\r\n" + content:
        return catalogue.LOCAL_ERROR
    print(f"mail from <{sender or ''}> to {', '.join(map(str, recipients))}: {len(content)} octets", flush=True)
    return None


class Session:
    """One client."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, tls: ssl.SSLContext | None = None) -> None:
        self.socket = stream
        self.stream: trio.abc.Stream = stream  # or TLS upon it
        self.tls = tls
        self.connection = ServerConnection(replace(OPTIONS, tls=Tls.NONE if tls is None else Tls.AVAILABLE))
        self.to_send = bytearray()  # the replies to a pipelined group go out together
        self.command_due = 0.0
        self.forget()

    def forget(self) -> None:
        """No mail is under way. The core remembers no addresses: what is wanted of the events is kept here."""
        self.sender: Mailbox | None = None
        self.recipients: list[Mailbox] = []
        self.content = bytearray()

    async def run(self) -> None:
        """Talk until either side has closed."""
        while True:
            try:
                event = self.connection.next_event()
            except RemoteProtocolError as exc:  # the stream makes no sense any more; ConnectionClosed comes next
                self.to_send += exc.to_send
                continue
            match event:
                case Signal.NEED_DATA:
                    await self.send()
                    await self.receive()
                case Signal.PAUSED:  # every event was answered, so it is the handshake that is due
                    await self.send()
                    await self.start_tls()
                case ConnectionClosed():
                    await self.send()
                    return await self.close_politely()
                case _:
                    self.to_send += await self.answer(event)
                    self.command_due = trio.current_time() + COMMAND_SECONDS

    async def send(self) -> None:
        """Write what was answered. A client that does not read is given up."""
        with trio.fail_after(SEND_SECONDS):
            await self.stream.send_all(bytes(self.to_send))
        self.to_send.clear()

    async def receive(self) -> None:
        """Give the core what the client sends; the core knows no clock, so the deadline is ours."""
        deadline = self.command_due
        if self.connection.waiting_for is Waiting.DATA:
            deadline = trio.current_time() + DATA_SECONDS
        try:
            with trio.CancelScope(deadline=deadline) as scope:
                data = await self.stream.receive_some(READ_OCTETS)
        except trio.Cancelled:  # by no deadline of ours: the server stops
            await self.say_last(self.connection.close(catalogue.SHUTTING_DOWN))
            raise
        if scope.cancelled_caught:
            self.to_send += self.connection.close(catalogue.TIMED_OUT)
        else:
            self.connection.receive_data(bytes(data))  # b"" at the end of file, which the core expects

    async def start_tls(self) -> None:
        """Go on over TLS. A client that says nothing, or something else, is left without a word."""
        if self.tls is None:
            raise AssertionError("STARTTLS was not offered")
        stream = trio.SSLStream(self.socket, self.tls, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                await stream.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError):
            self.connection.tls_failed()
        else:
            self.stream = stream
            self.connection.tls_started()
            self.forget()
            self.command_due = trio.current_time() + COMMAND_SECONDS

    async def say_last(self, farewell: bytes) -> None:
        """Send while everything around is being cancelled. Nothing else was half sent: this comes while we receive."""
        with trio.move_on_after(GOODBYE_SECONDS, shield=True), contextlib.suppress(trio.BrokenResourceError):
            await self.stream.send_all(farewell)

    async def close_politely(self) -> None:
        """Let the client close first: a socket that is closed with octets unread takes the last reply with it."""
        with trio.move_on_after(GOODBYE_SECONDS):
            if isinstance(self.stream, trio.SSLStream):
                with contextlib.suppress(trio.BrokenResourceError):  # few clients say goodbye within TLS
                    await self.stream.unwrap()
                return
            await self.socket.send_eof()
            while await self.socket.receive_some(READ_OCTETS):
                pass

    async def answer(self, event: Event) -> bytes:
        """What to write because of the event. A question that takes too long is a temporary failure."""
        accept, reject = self.connection.accept, self.connection.reject
        refusal: Reply | None = catalogue.LOCAL_ERROR
        match event:
            case Connected() | StartTls() | DataBegun():
                return accept(event)
            case Authenticate(credentials=credentials):
                refusal = catalogue.AUTH_FAILED_FOR_NOW
                with trio.move_on_after(ANSWER_SECONDS):
                    refusal = await refuses_login(credentials)
                return accept(event) if refusal is None else reject(event, refusal)
            case Xclient():  # never asked: OPTIONS trusts no proxy
                return reject(event, catalogue.NOT_OFFERED)
            case Hello():
                self.forget()
                return accept(event)
            case MailFrom(path=sender):
                self.forget()
                self.sender = sender
                return accept(event)
            case RcptTo(path=recipient):
                with trio.move_on_after(ANSWER_SECONDS):
                    refusal = await refuses_recipient(recipient)
                if refusal is not None:
                    return reject(event, refusal)
                self.recipients.append(recipient)
                return accept(event)
            case MessageChunk(data=data):
                self.content += data
                return b""
            case MessageEnd():
                with trio.move_on_after(ANSWER_SECONDS):
                    refusal = await refuses_mail(self.sender, self.recipients, bytes(self.content))
                self.forget()
                return accept(event) if refusal is None else reject(event, refusal)
            case MessageRefused(to_send=to_send) | TransactionReset(to_send=to_send):
                self.forget()
                return to_send
            case CommandAnswered(to_send=to_send) | CommandRejected(to_send=to_send):
                return to_send
            case ConnectionClosed():
                return b""
            case _:
                assert_never(event)


async def serve_client(tls: ssl.SSLContext | None, stream: trio.SocketStream) -> None:
    """One client from its first octet to its last; what happens to it happens to nobody else."""
    try:
        await Session(stream, tls).run()
    except (trio.BrokenResourceError, trio.TooSlowError) as exc:
        print(f"a client is lost: {exc}", file=sys.stderr)  # serve_listeners() closes the stream


async def main(arguments: Sequence[str]) -> int:
    """Listen, and serve everybody until a signal comes. Returns the exit status."""
    host, _, port = (arguments[0] if arguments else "127.0.0.1:2525").rpartition(":")
    tls = None
    if len(arguments) > 1:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(arguments[1])
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(int(port), host=host)
            nursery.start_soon(trio.serve_listeners, partial(serve_client, tls), listeners)
            bound = listeners[0].socket.getsockname()
            print(f"listening on {bound[0]}:{bound[1]}", flush=True)
            number = await anext(signals)
            nursery.cancel_scope.cancel()  # every session says its last word in receive()
    return 128 + number


if __name__ == "__main__":
    sys.exit(trio.run(main, sys.argv[1:]))
