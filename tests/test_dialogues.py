"""Transcripts of SMTP sessions (`dialogues/*.txt`), each played on the core alone and against a running server."""

import re
from collections import Counter
from enum import Enum
from operator import attrgetter
from pathlib import Path
from typing import Final, assert_never

import pytest
import trio

from tests.certificates import Authority
from tests.playing import READ_SECONDS, Scripts, SocketWire, check_mails, play
from tests.playing_core import CoreWire, Cut
from tests.support import Dialogue, Journal, Line, ScriptedResponder, Served, serving
from tests.transcripts import FOLDER, Expect, Transcript, TranscriptError, load, parse, unescape
from trio_fcgimail.config import ConfigErrors, TcpAddress, TlsMode, UnixAddress

TRANSCRIPTS: Final = load()
SOURCE: Final = re.compile(r"\bRFC [0-9]{3,4}(?: (?:[0-9]+|[A-Z])(?:\.[0-9]+)*)?\b|\bdocs/[a-z-]+\.md\b")


class Over(Enum):
    """How a server is reached."""

    TCP = "tcp"
    UNIX = "unix"
    TLS = "tcp, and TLS from the first octet"
    STARTTLS = "unix, and TLS by a STARTTLS before the transcript begins"

    def listen(self, folder: Path) -> str:
        """Where the server is to listen."""
        match self:
            case Over.TCP | Over.TLS:
                return "127.0.0.1:0"
            case Over.UNIX | Over.STARTTLS:
                return f"unix:{folder}/smtp"
            case _:
                assert_never(self)

    @property
    def tls(self) -> TlsMode:
        """The setting of the listener, where a transcript does not say it."""
        match self:
            case Over.TCP | Over.UNIX:
                return TlsMode.NONE
            case Over.TLS:
                return TlsMode.IMPLICIT
            case Over.STARTTLS:
                return TlsMode.STARTTLS
            case _:
                assert_never(self)

    def suits(self, transcript: Transcript) -> bool:
        """Whether the transcript can be played so: TLS is its own matter, or ours, or not there at all."""
        match self:
            case Over.TCP | Over.UNIX:
                return True
            case Over.TLS:
                return transcript.tls is None
            case Over.STARTTLS:
                is_greeted = any(isinstance(step, Expect) and step.text.startswith("220 ") for step in transcript.steps)
                offers_all = not any(line.startswith("extensions ") for line in transcript.settings)
                return transcript.tls is None and is_greeted and offers_all
            case _:
                assert_never(self)


async def _dial(house: Served) -> trio.SocketStream:
    match house.addresses[0]:
        case TcpAddress(host=host, port=port):
            return await trio.open_tcp_stream(host, port)
        case UnixAddress(path=path):
            return await trio.open_unix_socket(path)
        case _:
            raise AssertionError("no address to dial")


async def _wire(
    transcript: Transcript, over: Over, stream: trio.SocketStream, authority: Authority, seconds: float
) -> SocketWire:
    """A wire on which the transcript can begin."""
    if (transcript.tls or over.tls) is TlsMode.IMPLICIT:
        wire = SocketWire(stream, authority.client, seconds)
        await wire.start_tls()
        return wire
    if over is not Over.STARTTLS:
        return SocketWire(stream, authority.client, seconds)
    client = Dialogue(stream)
    banner = await client.reply()
    word = b"LHLO" if banner.endswith(b" LMTP\r\n") else b"EHLO"
    assert b"STARTTLS\r\n" in await client.ask(word + b" before.example")
    assert (await client.ask(b"STARTTLS")).startswith(b"220 ")
    wire = SocketWire(stream, authority.client, seconds, heard=banner)
    await wire.start_tls()
    return wire


async def _play_on_core(transcript: Transcript, cut: Cut = Cut.WHOLE) -> None:
    scripts = Scripts(transcript)
    await play(transcript, CoreWire(transcript, scripts, cut))
    check_mails(transcript, scripts)


async def _play_on_server(
    transcript: Transcript,
    over: Over,
    folder: Path,
    journal: Journal,
    authority: Authority,
    seconds: float = READ_SECONDS,
) -> None:
    scripts = Scripts(transcript)

    async def act(line: Line) -> None:
        await line.answer(scripts.answer(await line.request()))

    async with trio.open_nursery() as nursery:
        await ScriptedResponder(nursery, act).listen(folder / "fcgi")
        upstream = f"unix:{folder}/fcgi"
        config = transcript.configuration(over.listen(folder), upstream, over.tls, authority.certificate)
        async with serving(config, journal) as house, await _dial(house) as stream:
            await play(transcript, await _wire(transcript, over, stream, authority, seconds))
        check_mails(transcript if over.tls is TlsMode.NONE else transcript.over_tls(), scripts)
        nursery.cancel_scope.cancel()


PAIRS: Final = [(transcript, over) for transcript in TRANSCRIPTS for over in Over if over.suits(transcript)]


@pytest.mark.trio
@pytest.mark.parametrize("cut", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=attrgetter("name"))
async def test_on_the_core(transcript: Transcript, cut: Cut) -> None:
    await _play_on_core(transcript, cut)


@pytest.mark.trio
@pytest.mark.parametrize(("transcript", "over"), PAIRS, ids=[f"{one.name}-{over.name}" for one, over in PAIRS])
async def test_on_a_server(
    transcript: Transcript, over: Over, tmp_path: Path, journal: Journal, authority: Authority
) -> None:
    await _play_on_server(transcript, over, tmp_path, journal, authority)


# The collection


def test_there_are_enough() -> None:
    assert len(TRANSCRIPTS) >= 60


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=attrgetter("name"))
def test_says_what_it_shows_and_where_that_stands(transcript: Transcript) -> None:
    assert SOURCE.search(transcript.remarks), "the remarks name neither an RFC nor a page of docs/"
    assert len(SOURCE.sub("", transcript.remarks).split()) >= 3, "the remarks do not say what is shown"


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=attrgetter("name"))
def test_names_a_page_that_exists(transcript: Transcript) -> None:
    for page in re.findall(r"docs/[a-z-]+\.md", transcript.remarks):
        assert (FOLDER.parents[1] / page).is_file()


def test_no_two_show_the_same() -> None:
    (_, times), *_ = Counter(one.remarks for one in TRANSCRIPTS).most_common(1)
    assert times == 1


def test_nothing_else_lies_in_the_folder() -> None:
    assert {path.suffix for path in FOLDER.iterdir()} == {".txt", ".md"}


# The runner can fail

SAMPLE: Final = r"""# A mail, RFC 5321 D.1
! limits.message_octets = 1000
! validate bad@example.com = 550 5.1.1 No such user
! save = SAVED id=7
S: 220 mx.example.com ESMTP
C: EHLO client.example
S: 250 ...
C: MAIL FROM:<alice@example.net>
C: RCPT TO:<bad@example.com>
C: RCPT TO:<bob@example.com>
C: DATA
S: 250 2.1.0 Sender OK
S: 550 5.1.1 No such user
S: 250 2.1.5 *
S: 354 *
C: Well?
C: .
S: 250 2.0.0 OK: queued as 7
C: QUIT
S: 221 2.0.0 Bye
S: <close>
D: <alice@example.net> -> <bob@example.com>
D+ with = ESMTP
D| Well?
"""

ALTERATIONS: Final = [
    pytest.param("S: 550 5.1.1 No such user", "S: 550 5.1.1 No such users", id="another-text"),
    pytest.param("S: 250 2.1.0 Sender OK", "S: 250 2.1.0 Sender", id="a-beginning-is-no-line"),
    pytest.param("S: 250 2.1.5 *", "S: 251 2.1.5 *", id="another-code-with-a-star"),
    pytest.param("S: 250 ...", "S: 220 ...", id="another-code-of-any-lines"),
    pytest.param("S: 250 ...", "S: 250 mx.example.com", id="one-line-instead-of-many"),
    pytest.param("S: 354 *\n", "", id="a-reply-too-few"),
    pytest.param("S: 354 *", "S: 354 *\nS: 250 *", id="a-reply-too-many"),
    pytest.param("S: 221 2.0.0 Bye\n", "", id="a-last-reply-too-few"),
    pytest.param("S: <close>", "S: 250 *\nS: <close>", id="a-last-reply-too-many"),
    pytest.param("S: 220 mx.example.com ESMTP\n", "", id="no-banner"),
    pytest.param("! validate bad@example.com", "! validate worse@example.com", id="another-script"),
    pytest.param("! save = SAVED id=7", "! save = 451 No", id="another-save-script"),
    pytest.param("octets = 1000", "octets = 3", id="another-setting"),
    pytest.param("D| Well?", "D| Well", id="another-content"),
    pytest.param("D| Well?", "D| Well?\nD|", id="a-line-of-content-too-many"),
    pytest.param("-> <bob@example.com>", "-> <bad@example.com>", id="another-recipient"),
    pytest.param("-> <bob@example.com>", "-> <bad@example.com> <bob@example.com>", id="a-recipient-too-many"),
    pytest.param("D+ with = ESMTP", "D+ with = SMTP", id="another-field"),
    pytest.param("D+ with = ESMTP", "D+ auth_user = ESMTP", id="a-field-too-many"),
    pytest.param("D: <alice@example.net> -> <bob@example.com>\nD+ with = ESMTP\nD| Well?\n", "", id="a-mail-too-few"),
    pytest.param("D| Well?", "D| Well?\nD: <> -> <bob@example.com>", id="a-mail-too-many"),
]


def _altered(old: str, new: str, sample: str = SAMPLE) -> Transcript:
    assert sample.count(old) == 1
    return parse("altered", sample.replace(old, new))


@pytest.mark.trio
@pytest.mark.parametrize("cut", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize(("old", "new"), ALTERATIONS)
async def test_an_altered_transcript_fails_on_the_core(old: str, new: str, cut: Cut) -> None:
    with pytest.raises(AssertionError):
        await _play_on_core(_altered(old, new), cut)


@pytest.mark.trio
@pytest.mark.parametrize(("old", "new"), ALTERATIONS)
@pytest.mark.parametrize("over", [Over.TCP, Over.TLS], ids=attrgetter("name"))
async def test_an_altered_transcript_fails_on_a_server(
    over: Over, old: str, new: str, tmp_path: Path, journal: Journal, authority: Authority
) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await _play_on_server(_altered(old, new), over, tmp_path, journal, authority, seconds=0.5)
    assert caught.group_contains(AssertionError)


TLS_SAMPLE: Final = """# A mail over TLS, RFC 3207 4
! tls = "starttls"
! connect = PASSED
! helo bad.example = no
! auth joe:secret = PASSED
! mail eve@example.net = 550 5.7.1 Not you
S: 220 mx.example.com ESMTP
C: EHLO client.example
S: 250 ...
C: STARTTLS
S: 220 2.0.0 Ready to start TLS
C: <starttls>
C: EHLO bad.example
S: 550 5.7.1 Not accepted
C: EHLO client.example
S: 250 ...
C: AUTH PLAIN AGpvZQBzZWNyZXQ=
S: 235 2.7.0 Authentication succeeded
C: MAIL FROM:<eve@example.net>
S: 550 5.7.1 Not you
C: MAIL FROM:<joe@example.net>
C: RCPT TO:<bob@example.com>
C: DATA
S: 250 2.1.0 Sender OK
S: 250 2.1.5 *
S: 354 *
C: Well?
C: .
S: 250 2.0.0 OK: queued as *
C: QUIT
S: 221 2.0.0 Bye
S: <close>
D: <joe@example.net> -> <bob@example.com>
D+ with = ESMTPSA
D| Well?
"""

TLS_ALTERATIONS: Final = [
    pytest.param("! connect = PASSED", "! connect = no", id="another-connect-script"),
    pytest.param("! helo bad.example", "! helo worse.example", id="another-helo-script"),
    pytest.param("! auth joe:secret", "! auth joe:other", id="another-password"),
    pytest.param("! mail eve@example.net", "! mail eva@example.net", id="another-mail-script"),
    pytest.param("C: <starttls>\n", "", id="no-handshake"),
    pytest.param("C: STARTTLS\nS: 220 2.0.0 Ready to start TLS\nC: <starttls>\n", "", id="no-tls"),
    pytest.param("D+ with = ESMTPSA", "D+ with = ESMTPS", id="another-field"),
]


@pytest.mark.trio
async def test_the_sample_with_tls_holds(tmp_path: Path, journal: Journal, authority: Authority) -> None:
    sample = parse("sample", TLS_SAMPLE)
    await _play_on_core(sample)
    await _play_on_server(sample, Over.TCP, tmp_path, journal, authority)


@pytest.mark.trio
@pytest.mark.parametrize(("old", "new"), TLS_ALTERATIONS)
async def test_an_altered_transcript_with_tls_fails_on_the_core(old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        await _play_on_core(_altered(old, new, TLS_SAMPLE))


@pytest.mark.trio
@pytest.mark.parametrize(("old", "new"), TLS_ALTERATIONS)
async def test_an_altered_transcript_with_tls_fails_on_a_server(
    old: str, new: str, tmp_path: Path, journal: Journal, authority: Authority
) -> None:
    altered = _altered(old, new, TLS_SAMPLE)
    with pytest.raises(ExceptionGroup) as caught:
        await _play_on_server(altered, Over.TCP, tmp_path, journal, authority, seconds=0.5)
    assert caught.group_contains(AssertionError)


BROKEN: Final = [
    pytest.param("C: QUIT", "no mark", id="no-mark"),
    pytest.param("C: QUIT", "C:QUIT", id="no-blank"),
    pytest.param("C: QUIT", r"C\: QUIT\q", id="no-such-escape"),
    pytest.param("! save = SAVED id=7", "! save SAVED", id="no-value"),
    pytest.param("! validate bad@example.com", "! validate", id="a-script-asked-about-nothing"),
    pytest.param("! validate bad@example.com", "! connect bad@example.com", id="a-script-asked-about-something"),
    pytest.param("S: <close>\n", "", id="nobody-closes"),
    pytest.param("D: <alice@example.net> -> <bob@example.com>\n", "", id="content-of-no-mail"),
]


@pytest.mark.parametrize(("old", "new"), BROKEN)
def test_what_is_no_transcript(old: str, new: str) -> None:
    with pytest.raises(TranscriptError):
        _altered(old, new)


def test_an_unknown_setting_is_an_error() -> None:
    with pytest.raises(ConfigErrors):
        _altered("limits.message_octets", "limits.message_octet").configuration("127.0.0.1:0", "unix:/run/none")


def test_escapes() -> None:
    assert unescape(r"a\r\n\t\\\x00\xffü\(3*ab)c") == b"a\r\n\t\\\x00\xff\xc3\xbcabababc"


@pytest.mark.trio
async def test_the_example_of_the_readme_holds() -> None:
    (example,) = re.findall(r"```text\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    await _play_on_core(parse("README", example))
