"""The example scripts on a php-fpm, and what they make of the mails that they get."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from tests.clients import Client, Mail
from tests.phpfpm import PhpFpm

EXAMPLES: Final = Path(__file__).parents[1] / "examples" / "php"

#: Notes every field as PHP got it, then does what the example does; some recipients make it fail in between.
RECORD: Final = """<?php
file_put_contents('%(fields)s/' . $_POST['queue_id'] . '.json', json_encode(array_map('base64_encode', $_POST)));
switch ($_POST['rcpt_to_0']) {
    case 'save-dies@example.com': throw new Exception('died');
    case 'save-is-silent@example.com': exit;
    case 'save-refuses@example.com': exit('554 5.6.0 No such letters');
}
require '%(example)s';
"""
VALIDATE: Final = """<?php
switch ($_GET['rcpt_to']) {
    case 'check-dies@example.com': throw new Exception('died');
    case 'check-is-silent@example.com': exit;
}
require '%(example)s';
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the scripts made of one mail.

    Attributes:
        fields: What save.php was given.
        file: What it wrote; None when it never came to that.
    """

    fields: dict[str, bytes]
    file: bytes | None

    def text(self, name: str) -> str:
        """A field as text."""
        return self.fields[name].decode()


@dataclass(slots=True)
class Mailroom:
    """The scripts on a php-fpm, and where they put what they get."""

    php: PhpFpm
    save: str
    validate: str
    _seen: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, php: PhpFpm) -> Self:
        """Put the scripts there."""
        for name in ("fields", "mails"):
            (php.data / name).mkdir()
            (php.data / name).chmod(0o777)
        save = php.script("save.php", (EXAMPLES / "save.php").read_text())
        validate = php.script("validate.php", (EXAMPLES / "validate.php").read_text())
        # The folder is known only once there is a php-fpm, so save.php learns of it from the script around it.
        record = RECORD.replace("<?php", f"<?php putenv('FCGIMAIL_DIR={php.data}/mails');", 1)
        return cls(
            php,
            php.script("record.php", record % {"fields": php.data / "fields", "example": save}),
            php.script("check.php", VALIDATE % {"example": validate}),
        )

    def taken(self) -> list[Stored]:
        """The mails that came since the last time."""
        found = []
        for path in sorted((self.php.data / "fields").iterdir()):
            if path.name not in self._seen:
                self._seen.add(path.name)
                fields = {name: base64.b64decode(value) for name, value in json.loads(path.read_bytes()).items()}
                mail = self.php.data / "mails" / f"{fields['mail_digest'].decode()}.eml"
                found.append(Stored(fields, mail.read_bytes() if mail.exists() else None))
        return found


def to_lf(content: bytes) -> bytes:
    """As scripts get it."""
    return content.replace(b"\r\n", b"\n")


def digest(mail: Mail) -> str:
    """By design: the path, each recipient in order, an empty one, the content as it was sent."""
    recipients = b"".join(one.encode() + b"\0" for one in sorted(mail.recipients))
    return hashlib.sha256(mail.sender.encode() + b"\0" + recipients + b"\0" + mail.content).hexdigest()


def as_sent(client: Client, mail: Mail, stored: Stored) -> Mail:
    """The mail as this client sends it, with what it adds to every one; AssertionError when more was added or changed.

    What it puts in front (a date, an id) is known by its pattern only, so it is taken from what arrived: behind the
    trace header of ours, which is the first, and before the mail.
    """
    tail = to_lf(mail.content + client.behind)
    assert stored.fields["body"].endswith(tail)
    front = stored.fields["body"][: -len(tail)].decode()
    trace = re.match(r"Received: [^\n]*\n(?:[\t ][^\n]*\n)*", front)
    assert trace is not None, front
    added = front[trace.end() :]
    assert re.fullmatch(client.before, added), added
    content = added.replace("\n", "\r\n").encode() + mail.content + client.behind
    return replace(mail, content=content, recipients=tuple(client.order(mail.recipients)))
