"""The save scripts that stand whole in docs/scripts.md, each taken from the page and run behind the mail server."""

import re
import smtplib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

import pytest

from tests.application_servers import ROOT, Place, Running, compiled, configuration, perl, python_with, spawn_fcgi
from tests.clients import HELO, SECONDS
from tests.phpfpm import PhpFpm, open_folder
from tests.server_process import ServerProcess

_PAGE: Final = (ROOT / "docs" / "scripts.md").read_text()
_SECTION: Final = _PAGE.partition("\n## A save script from first to last\n")[2].partition("\n## ")[0]
BLOCKS: Final = dict(re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", _SECTION))
CONTENT: Final = (
    b"Subject: octets\r\n\r\n.\r\n..two\r\n" + bytes(range(1, 10)) + bytes(range(14, 256)) + b"\r\n"
) + 3000 * b"a line among many % & + ;\r\n"


@contextmanager
def _php(place: Place, source: str) -> Iterator[Running]:
    with PhpFpm(children=2, env=place.env) as php:
        yield Running(php.address, php.script("save.php", source))


def _perl(place: Place, source: str) -> Running:
    path = place.folder / "save.pl"
    path.write_text(source)
    return spawn_fcgi(place, perl(), str(path))


def _python(place: Place, source: str) -> Running:
    path = place.folder / "save.py"
    path.write_text(source)
    return spawn_fcgi(place, python_with("fcgisgi"), str(path), workers=1)


def _c(place: Place, source: str) -> Running:
    path = place.folder / "save.c"
    path.write_text(source)
    return spawn_fcgi(place, compiled(place, str(path)))


@dataclass(frozen=True, slots=True)
class Language:
    """One of them, and how it is run."""

    id: str
    start: Callable[[Place, str], AbstractContextManager[Running]]


LANGUAGES: Final = (Language("php", _php), Language("perl", _perl), Language("python", _python), Language("c", _c))


def test_the_page_has_one_of_each() -> None:
    assert list(BLOCKS) == [language.id for language in LANGUAGES]


@pytest.mark.parametrize("language", LANGUAGES, ids=attrgetter("id"))
def test_it_stores_mails_and_says_so_only_then(language: Language) -> None:
    with open_folder() as folder:
        mails = folder / "mails"
        mails.mkdir()
        mails.chmod(0o777)
        place = Place(folder, mails, {"FCGIMAIL_DIR": str(mails)})
        with language.start(place, BLOCKS[language.id]) as app:
            text = re.sub(r"(?m)^validate = .*$", 'body = "raw"', configuration(app))
            (folder / "fcgimail.toml").write_text(text)
            with ServerProcess("serve", folder=folder) as server:
                with smtplib.SMTP("127.0.0.1", server.port, local_hostname=HELO, timeout=SECONDS) as client:
                    for _ in range(2):
                        client.sendmail("author@example.net", "info@example.com", CONTENT)
                    (stored,) = mails.iterdir()
                    assert re.fullmatch(r"[0-9a-f]{64}\.eml", stored.name)
                    mail = stored.read_bytes()
                    assert mail.endswith(CONTENT)
                    assert mail.startswith(b"Received: ")
                    stored.unlink()
                    mails.rmdir()
                    with pytest.raises(smtplib.SMTPDataError) as caught:
                        client.sendmail("author@example.net", "info@example.com", CONTENT)
                    assert caught.value.smtp_code == 451
                assert server.stop() == 0
