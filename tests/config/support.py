"""What the tests of the configuration share."""

import tomllib

from trio_fcgimail.config import ConfigErrors, Settings, read_document

# Every required key, and nothing else.
MINIMAL = """
allowed_hosts = ["example.com"]
[[listeners]]
address = "127.0.0.1:2525"
[fastcgi]
upstreams = ["unix:/run/php/php-fpm.sock"]
[scripts]
save = "/srv/mail/save.php"
"""


def document_with(text: str) -> dict[str, object]:
    """Lay `text` over the minimal document: its tables add to those, its values replace those."""
    document: dict[str, object] = tomllib.loads(MINIMAL)
    _lay_over(document, tomllib.loads(text))
    return document


def _lay_over(below: dict[str, object], above: dict[str, object]) -> None:
    for name, value in above.items():
        old = below.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            _lay_over(old, value)
        else:
            below[name] = value


def read(text: str) -> Settings:
    """Read `text` over the minimal document."""
    return read_document(document_with(text), file="f", default_hostname="mx.example.com")


def error_lines(text: str) -> list[str]:
    """Give the error lines of `text` over the minimal document, none when it is good."""
    try:
        read(text)
    except ConfigErrors as errors:
        return str(errors).split("\n")
    return []
