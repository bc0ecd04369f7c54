"""What a walk needs of a server, wherever it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Protocol

from tests.trust.walks.model import House, Seen

VALIDATE_SECONDS: Final = 2
SAVE_SECONDS: Final = 3
WAIT_SECONDS: Final = 6

_TRACE: Final = re.compile(rb"Received: .*?;\n\t[^\n]*\n", re.DOTALL)  # and the mail may begin with a blank


class Driver(Protocol):
    """A server and one client of it at a time."""

    @property
    def can_wait(self) -> bool:
        """Whether the clock can jump over the longest silence."""

    @property
    def can_reload(self) -> bool:
        """Whether the server can be told to read its settings again."""

    def connect(self) -> None:
        """Connect; nothing is read."""

    def send(self, data: bytes) -> None:
        """Write, as far as the server reads."""

    def reply(self) -> int:
        """The code of the next reply; EOFError at the end."""

    def rest(self) -> bytes:
        """What comes up to the end of file."""

    def shake_hands(self) -> None:
        """Do the client's part of a TLS handshake."""

    def half_close(self) -> None:
        """Say no more."""

    def vanish(self) -> None:
        """Close, and wait until the server is through with this client."""

    def set_down(self, is_down: bool) -> None:
        """Take the scripts away, or bring them back."""

    def reload(self, *, is_good: bool) -> None:
        """Have the settings read again, from a good file or from a bad one."""

    def seen(self) -> list[Seen]:
        """What the scripts were asked so far, in order."""

    def check_nothing_is_left(self) -> None:
        """Between two clients nothing of a mail is left anywhere."""

    def close(self) -> None:
        """End the server."""


def settings_of(house: House, idle_seconds: int) -> str:
    """The settings of the server, as TOML, without its addresses; ``{script}`` stands for the script."""
    stages = [("validate", house.validates), ("helo", house.asks), ("mail", house.asks)]
    scripts = "".join(f'{stage} = "{{script}}"\n' for stage, is_there in stages if is_there)
    return f"""
        [limits]
        message_octets = 1000
        recipients = 3
        bad_commands = 0
        refused_recipients = 0
        messages_per_connection = 0
        idle_seconds = {idle_seconds}
        data_seconds = {idle_seconds}
        [fastcgi]
        wait_seconds = {WAIT_SECONDS}
        connect_seconds = 2
        [scripts]
        validate_seconds = {VALIDATE_SECONDS}
        save_seconds = {SAVE_SECONDS}
        save = "{{script}}"
        {scripts}
    """


def seen_of(fields: Mapping[str, bytes]) -> Seen:
    """What a script says that it got."""
    stage = fields["stage"].decode()
    about = {"helo": "helo", "validate": "rcpt_to"}.get(stage, "mail_from")
    if stage != "save":
        return Seen(stage, fields[about].decode())
    names = sorted((name for name in fields if re.fullmatch(r"rcpt_to_\d+", name)), key=lambda name: int(name[8:]))
    trace = _TRACE.match(fields["body"])
    assert trace is not None, "no trace header"
    assert int(fields["size"]) == len(fields["body"])
    assert len(names) == int(fields["rcpt_count"])
    return Seen(
        stage,
        fields[about].decode(),
        tuple(fields[name].decode() for name in names),
        fields["body"][trace.end() :],
        fields["mail_digest"].decode(),
        fields["tls_on"] == b"true",
    )
