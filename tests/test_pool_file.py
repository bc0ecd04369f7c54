"""The sample pool file: a real php-fpm runs with it, all its limits are good, and mails get through in each kind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.cli.test_check_php import check
from tests.phpfpm import PhpFpm, open_folder
from tests.support import Journal, serving, settings
from trio_fcgimail.mail import BodyKind

EXAMPLES: Final = Path(__file__).parents[1] / "examples" / "php"
LINE: Final = bytes(octet for octet in range(256) if octet not in b"\r\n") + b"\r\n"
MAIL: Final = b"Subject: hi\r\n\r\n" + LINE * 80_000  # 20 MB
KINDS: Final = pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in BodyKind])


@pytest.fixture(scope="module")
def mails() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def php(mails: Path) -> Iterator[PhpFpm]:
    sample = (EXAMPLES / "php-fpm-pool.conf").read_text()
    with PhpFpm(sample=sample, env={"FCGIMAIL_DIR": str(mails)}) as server:
        yield server


def test_the_sample_has_all_that_the_server_wants(php: PhpFpm) -> None:
    for kind in BodyKind:
        with open_folder() as folder:
            code, found = check(php, folder, kind)
        assert (code, {mark for mark, _ in found.values()}) == (0, {"ok"}), found


@KINDS
@pytest.mark.trio
async def test_a_large_mail_is_stored(php: PhpFpm, mails: Path, journal: Journal, kind: BodyKind) -> None:
    scripts = {name: php.script(name, (EXAMPLES / name).read_text()) for name in ("save.php", "validate.php")}
    config = settings(
        f"""
        listeners = [{{ address = "127.0.0.1:0" }}]
        fastcgi.upstreams = ["{php.address}"]
        scripts.save = "{scripts["save.php"]}"
        scripts.validate = "{scripts["validate.php"]}"
        scripts.body = "{kind.value}"
        """
    )
    async with serving(config, journal) as served:
        reply = await (await served.guest()).mail(MAIL)
    assert reply.startswith(b"250 2.0.0 OK: queued as ")
    name = reply.split()[-1].decode()
    (stored,) = await trio.Path(mails).glob(f"{name}*.eml")
    content = await stored.read_bytes()
    seen = MAIL.replace(b"\r\n", b"\n") if kind is BodyKind.FORM else MAIL
    assert content.endswith(b"\n" + seen)
    assert content.startswith(b"Received: ")
    await stored.unlink()
