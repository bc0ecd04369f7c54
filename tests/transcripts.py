"""Transcripts of SMTP sessions as files of plain lines (`dialogues/README.md`): how they are read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final, final

from tests.config.support import read
from trio_fcgimail.config import ListenerSettings, Settings, TlsMode
from trio_fcgimail.mail import Stage

FOLDER: Final = Path(__file__).parent / "dialogues"

CERTIFICATE: Final = Path("/etc/ssl/mx.pem")  # of a server that is never run

_LISTENER_KEYS: Final = frozenset(field.name for field in fields(ListenerSettings))
_ESCAPE: Final = re.compile(
    r"\\(?:(?P<plain>[\\rnt])|x(?P<hex>[0-9a-f]{2})|\((?P<times>[0-9]+)\*(?P<what>[^)\\]+)\))|(?P<bad>\\)"
)
_PLAIN_ESCAPES: Final = {"\\": b"\\", "r": b"\r", "n": b"\n", "t": b"\t"}
_LINE: Final = re.compile(r"(?P<mark>C:|C\\:|S:|D:|D\||D\\\||D\+|!|#)(?: (?P<text>.*))?")


class TranscriptError(ValueError):
    """The file is no transcript."""


@final
@dataclass(frozen=True, slots=True)
class Send:
    """The client writes, at once."""

    octets: bytes
    line: int


@final
@dataclass(frozen=True, slots=True)
class Expect:
    """The server says a line; `*` or ` ...` at its end as in the README."""

    text: str
    line: int


@final
@dataclass(frozen=True, slots=True)
class ClientCloses:
    """The client has nothing more to say, and closes."""

    line: int


@final
@dataclass(frozen=True, slots=True)
class ServerCloses:
    """The server closes, having said nothing more."""

    line: int


@final
@dataclass(frozen=True, slots=True)
class StartTls:
    """The client does its part of a TLS handshake."""

    line: int


Step = Send | Expect | StartTls | ClientCloses | ServerCloses


@final
@dataclass(frozen=True, slots=True)
class Mail:
    """What a save script got, or has to get.

    Attributes:
        envelope: As a `D:` line has it.
        content: Without any line that we added.
        fields: All of them, or those that the transcript names.
    """

    envelope: str
    content: bytes
    fields: Mapping[str, str]

    def check(self, got: "Mail") -> None:
        """Fails unless `got` is this mail."""
        assert got.envelope == self.envelope
        assert got.content == self.content
        assert {name: got.fields.get(name) for name in self.fields} == self.fields


@final
@dataclass(frozen=True, slots=True)
class Transcript:
    """One file.

    Attributes:
        remarks: The lines behind `#`, in one.
        settings: TOML lines.
        tls: The setting of that name, None for a transcript that holds in the clear and over TLS.
        answers: What the scripts answer, by stage and by what they are asked about.
        save: What the save script answers, mail by mail; the last answer stands for all that follow.
        mails: What the save script has to get.
    """

    name: str
    remarks: str
    settings: tuple[str, ...]
    tls: TlsMode | None
    answers: Mapping[tuple[Stage, str], bytes]
    save: tuple[bytes, ...]
    steps: tuple[Step, ...]
    mails: tuple[Mail, ...]

    def over_tls(self) -> "Transcript":
        """What holds when all of it is said over TLS: scripts are told so."""
        mails = (
            replace(one, fields={name: _over_tls(name, one.fields[name]) for name in one.fields}) for one in self.mails
        )
        return replace(self, mails=tuple(mails))

    def configuration(
        self, listen: str, upstream: str, tls: TlsMode = TlsMode.NONE, certificate: Path = CERTIFICATE
    ) -> Settings:
        """The settings of a server that is to play it; ``tls`` is for transcripts without that setting."""
        stages = dict.fromkeys([Stage.VALIDATE, *(stage for stage, _ in self.answers)])
        ours = [
            f'fastcgi.upstreams = ["{upstream}"]',
            *(f'scripts.{stage.value} = "/srv/mail/{stage.value}.php"' for stage in stages),
            'scripts.line_ends = "crlf"',
        ]
        of_listener = [line for line in self.settings if _name_of(line) in _LISTENER_KEYS]
        others = [line for line in self.settings if line not in of_listener]
        encryption = [f'tls = "{tls.value}"'] if self.tls is None else []
        if (self.tls or tls) is not TlsMode.NONE:
            encryption.append(f'certificate = "{certificate}"')
        listener = ["[[listeners]]", f'address = "{listen}"', *encryption, *of_listener]
        return read("\n".join([*ours, *others, *listener]))


@final
class _Reader:
    """Reads a transcript line by line."""

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.settings: list[str] = []
        self.tls: TlsMode | None = None
        self.answers: dict[tuple[Stage, str], bytes] = {}
        self.save: list[bytes] = []
        self.steps: list[Step] = []
        self.mails: list[Mail] = []
        self._last_mark = ""

    def read(self, number: int, line: str) -> None:
        """Take a line."""
        if not line:
            self._last_mark = ""
            return
        found = _LINE.fullmatch(line)
        if found is None:
            raise TranscriptError("no such line")
        self._take(found["mark"], found["text"] or "", number)
        self._last_mark = found["mark"]

    def _take(self, mark: str, text: str, number: int) -> None:
        match mark:
            case "#":
                self.remarks.append(text)
            case "!":
                self._set(text)
            case "C:" if text == "<close>":
                self.steps.append(ClientCloses(number))
            case "C:" if text == "<starttls>":
                self.steps.append(StartTls(number))
            case "C:" | r"C\:":
                self._send(unescape(text) if mark == r"C\:" else text.encode() + b"\r\n", number)
            case "S:":
                self.steps.append(ServerCloses(number) if text == "<close>" else Expect(text, number))
            case "D:":
                self.mails.append(Mail(text, b"", {}))
            case "D|" | r"D\|":
                content = unescape(text) if mark == r"D\|" else text.encode() + b"\r\n"
                last = self.mails[-1]
                self.mails[-1] = replace(last, content=last.content + content)
            case _:
                name, value = _halves(text)
                last = self.mails[-1]
                self.mails[-1] = replace(last, fields={**last.fields, name: value})

    def _set(self, text: str) -> None:
        what, value = _halves(text)
        word, _, about = what.partition(" ")
        if what == "save":
            self.save.append(unescape(value))
        elif word in _ASKED_ABOUT:
            if bool(about) is not _ASKED_ABOUT[word]:
                raise TranscriptError("this script is asked about something else")
            self.answers[Stage(word), about] = unescape(value)
        else:
            self.settings.append(text)
            if what == "tls":
                self.tls = TlsMode(value.strip('"'))

    def _send(self, octets: bytes, number: int) -> None:
        match self.steps:
            case [*_, Send(octets=before, line=line)] if self._last_mark in ("C:", r"C\:"):
                self.steps[-1] = Send(before + octets, line)
            case _:
                self.steps.append(Send(octets, number))


#: Whether the name of a stage is followed by what its script is asked about.
_ASKED_ABOUT: Final = {
    Stage.CONNECT.value: False,
    Stage.HELO.value: True,
    Stage.AUTH.value: True,
    Stage.MAIL.value: True,
    Stage.VALIDATE.value: True,
}


def _name_of(setting: str) -> str:
    return setting.partition(" ")[0]


def _over_tls(name: str, value: str) -> str:
    match name:
        case "with" if value != "SMTP":  # that word says nothing of TLS (RFC 3848)
            return value + "S"
        case "tls_on":
            return "true"
        case _:
            return value


def _halves(text: str) -> tuple[str, str]:
    name, sign, value = (text + " " if text.endswith(" =") else text).partition(" = ")
    if not sign:
        raise TranscriptError('" = " is missing')
    return name, value


def unescape(text: str) -> bytes:
    r"""Octets from text with the escapes of the README: `\r \n \t \\ \xHH \(TIMES*TEXT)`."""
    octets = bytearray()
    at = 0
    for found in _ESCAPE.finditer(text):
        octets += text[at : found.start()].encode()
        at = found.end()
        if found["bad"]:
            raise TranscriptError("no such escape")
        if found["plain"]:
            octets += _PLAIN_ESCAPES[found["plain"]]
        elif found["hex"]:
            octets.append(int(found["hex"], 16))
        else:
            octets += found["what"].encode() * int(found["times"])
    return bytes(octets + text[at:].encode())


def parse(name: str, text: str) -> Transcript:
    """Read a transcript.

    Raises:
        TranscriptError: It is none; with the number of the line.
    """
    reader = _Reader()
    for number, line in enumerate(text.split("\n"), 1):
        try:
            reader.read(number, line)
        except (ValueError, IndexError) as exc:
            raise TranscriptError(f"{name}:{number}: {exc}: {line}") from exc
    if not reader.steps or not isinstance(reader.steps[-1], ClientCloses | ServerCloses):
        raise TranscriptError(f"{name}: nobody closes at the end")
    return Transcript(
        name=name,
        remarks=" ".join(reader.remarks),
        settings=tuple(reader.settings),
        tls=reader.tls,
        answers=reader.answers,
        save=tuple(reader.save),
        steps=tuple(reader.steps),
        mails=tuple(reader.mails),
    )


def load() -> list[Transcript]:
    """All of them, by name."""
    return [parse(path.stem, path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.txt"))]
