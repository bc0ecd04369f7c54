"""Why there is no answer, which decides what may be done next (docs/design.md, "Upstream")."""

from __future__ import annotations


class UpstreamError(Exception):
    """Base: there is no answer of the script.

    Attributes:
        stderr: What it wrote to STDERR all the same, as in an answer.
    """

    stderr: bytes = b""


class UpstreamUnavailable(UpstreamError):  # noqa: N818 - named for who failed, as its siblings are
    """Nothing was sent: no connection was to be had. Trying again can double nothing."""


class UpstreamUnexecuted(UpstreamError):  # noqa: N818
    """Something was sent, but the script has not run and will not. Trying again can double nothing."""


class UpstreamTimeout(UpstreamError):  # noqa: N818
    """The time is over; the script may have run, or may run still."""


class UpstreamBroken(UpstreamError):  # noqa: N818
    """The connection or its framing broke; the script may have run."""
