"""Settings for those who write them in Python."""

from collections.abc import Mapping

from trio_fcgimail.config.reader import read_document
from trio_fcgimail.config.settings import Settings

__all__ = ["make_settings"]

_NAME = "settings"  # what error lines name as the file


def make_settings(document: Mapping[str, object], *, default_hostname: str = "localhost") -> Settings:
    """Make settings of what a TOML file would hold: tables are dicts, arrays are lists.

    Args:
        document: by the keys of docs/configuration.md.
        default_hostname: stands in for an absent `hostname`.

    Raises:
        ConfigErrors: with every fault.
    """
    return read_document(document, file=_NAME, default_hostname=default_hostname)
