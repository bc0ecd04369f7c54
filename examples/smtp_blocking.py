"""An SMTP server on plain blocking sockets, one client at a time, that prints every mail.

    python examples/smtp_blocking.py [HOST:PORT [CERTIFICATE]]

The first line tells the address, ``127.0.0.1:2525`` unless another is named; port 0 takes any free one. With a
certificate, a PEM file that holds its key too, STARTTLS is offered.
"""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from trio_fcgimail.smtp import (
    Authenticate,
    CommandAnswered,
    CommandRejected,
    Connected,
    ConnectionClosed,
    DataBegun,
    Event,
    Hello,
    Mailbox,
    MailFrom,
    MessageChunk,
    MessageEnd,
    MessageRefused,
    RcptTo,
    RemoteProtocolError,
    ServerConnection,
    ServerOptions,
    Signal,
    StartTls,
    Tls,
    TransactionReset,
    Xclient,
    catalogue,
)

OPTIONS = ServerOptions(hostname="localhost", max_message_octets=1 << 20)
IDLE_SECONDS = 300.0  # RFC 5321 4.5.3.2.7
READ_OCTETS = 65_536  # a quarter of what the core's buffer holds


@dataclass(slots=True)
class Mail:
    """The mail under way. The core remembers no addresses: what is wanted of the events is kept here."""

    sender: Mailbox | None = None
    recipients: list[Mailbox] = field(default_factory=list)
    content: bytearray = field(default_factory=bytearray)

    def show(self) -> None:
        """Print the mail, with whatever could play tricks on a terminal made visible."""
        print(f"mail from <{self.sender or ''}> to {', '.join(map(str, self.recipients))}")
        for line in self.content.decode("utf-8", "backslashreplace").split("\r\n")[:-1]:
            print("    " + (line if line.isprintable() else ascii(line)))
        sys.stdout.flush()


class Session:
    """One client."""

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        self.sock = sock
        self.tls = tls
        self.connection = ServerConnection(replace(OPTIONS, tls=Tls.NONE if tls is None else Tls.AVAILABLE))
        self.mail = Mail()

    def run(self) -> None:
        """Talk until either side has closed."""
        to_send = bytearray()  # the replies to a pipelined group go out together
        while True:
            try:
                event = self.connection.next_event()
            except RemoteProtocolError as exc:  # the stream makes no sense any more; ConnectionClosed comes next
                to_send += exc.to_send
                continue
            match event:
                case Signal.NEED_DATA:
                    self.sock.sendall(to_send)
                    to_send.clear()
                    to_send += self.receive()
                case Signal.PAUSED:  # every event was answered, so it is the handshake that is due
                    self.sock.sendall(to_send)
                    to_send.clear()
                    self.start_tls()
                case ConnectionClosed():
                    self.sock.sendall(to_send)
                    return
                case _:
                    to_send += self.answer(event)

    def receive(self) -> bytes:
        """Give the core what the client sends; the core knows no clock, so the deadline is ours."""
        try:
            self.connection.receive_data(self.sock.recv(READ_OCTETS))  # b"" at the end of file, which the core expects
        except TimeoutError:
            return self.connection.close(catalogue.TIMED_OUT)
        return b""

    def start_tls(self) -> None:
        """Let TLS take the socket; the core has made sure that nothing of the client was read ahead."""
        try:
            if self.tls is None:
                raise AssertionError("STARTTLS was not offered")
            self.sock = self.tls.wrap_socket(self.sock, server_side=True)
        except OSError:  # ssl.SSLError is one; the socket is closed
            self.connection.tls_failed()
            raise
        self.connection.tls_started()
        self.mail = Mail()

    def answer(self, event: Event) -> bytes:
        """What to write because of the event."""
        accept = self.connection.accept
        match event:
            case Connected() | StartTls() | DataBegun():
                return accept(event)
            case Authenticate() | Xclient():  # never asked: OPTIONS has no mechanism and trusts no proxy
                return self.connection.reject(event, catalogue.NOT_OFFERED)
            case Hello():
                self.mail = Mail()
                return accept(event)
            case MailFrom(path=sender):
                self.mail = Mail(sender)
                return accept(event)
            case RcptTo(path=recipient):
                if recipient.local_part == "nobody":  # where a real server looks the recipient up
                    return self.connection.reject(event, catalogue.NO_SUCH_USER)
                self.mail.recipients.append(recipient)
                return accept(event)
            case MessageChunk(data=data):
                self.mail.content += data
                return b""
            case MessageEnd():
                self.mail.show()  # first store the mail, then accept it: after the 250 it is ours
                return accept(event)
            case MessageRefused(to_send=to_send) | TransactionReset(to_send=to_send):
                self.mail = Mail()
                return to_send
            case CommandAnswered(to_send=to_send) | CommandRejected(to_send=to_send):
                return to_send
            case ConnectionClosed():
                return b""
            case _:
                assert_never(event)


def main(arguments: Sequence[str]) -> None:
    """Listen, and serve one client after the other."""
    host, _, port = (arguments[0] if arguments else "127.0.0.1:2525").rpartition(":")
    tls = None
    if len(arguments) > 1:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(arguments[1])
    with socket.create_server((host, int(port))) as listener:
        bound = listener.getsockname()
        print(f"listening on {bound[0]}:{bound[1]}", flush=True)
        while True:
            client, _ = listener.accept()
            client.settimeout(IDLE_SECONDS)
            session = Session(client, tls)
            try:
                session.run()
            except OSError as exc:  # the client broke the connection: no reason to stop serving others
                print(f"a client is lost: {exc}", file=sys.stderr)
            finally:
                session.sock.close()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
