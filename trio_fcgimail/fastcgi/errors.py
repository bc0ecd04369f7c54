"""The errors of the FastCGI core: one base, and one class for each side that can be at fault."""

from typing import final


class ProtocolError(Exception):
    """Base of all errors of this package. After any of them the object that raised it is dead."""


@final
class LocalProtocolError(ProtocolError):
    """The embedding program did what the protocol, or the state of the connection, does not allow."""


@final
class RemoteProtocolError(ProtocolError):
    """The peer broke the framing or the order of records, so nothing after this can be trusted.

    FastCGI 1.0 has no message for this case: close the connection.
    """
