"""The limits by name, what is answered to whoever is over one, and how often that was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final, final

from trio_fcgimail.smtp import Reply, catalogue


class Limit(Enum):
    """What a client can be over, by its key in ``[limits]`` or of a listener; of failed logins there is none."""

    CONNECTIONS = "connections"
    LISTENER_CONNECTIONS = "listeners.connections"
    CONNECTIONS_PER_IP = "connections_per_ip"
    CONNECTIONS_PER_MINUTE_PER_IP = "connections_per_minute_per_ip"
    MESSAGES_PER_CONNECTION = "messages_per_connection"
    MESSAGES_PER_MINUTE_PER_IP = "messages_per_minute_per_ip"
    RECIPIENTS_PER_MINUTE_PER_IP = "recipients_per_minute_per_ip"
    MESSAGE_OCTETS = "message_octets"
    RECIPIENTS = "recipients"
    BAD_COMMANDS = "bad_commands"
    REFUSED_RECIPIENTS = "refused_recipients"
    FAILED_LOGINS = "failed_logins"
    BANNER_DELAY_SECONDS = "banner_delay_seconds"
    PROXY_HEADER_SECONDS = "proxy_header_seconds"
    TLS_HANDSHAKE_SECONDS = "tls_handshake_seconds"
    IDLE_SECONDS = "idle_seconds"
    DATA_SECONDS = "data_seconds"
    DATA_FLOOR = "data_floor_octets_per_second"
    MAX_RECEIVED = "max_received"


#: What is answered to whoever is over a limit. A reply tells of one limit only; those of time are missing here, as one
#: reply stands for several of them.
REPLIES: Final[Mapping[Limit, Reply]] = {
    Limit.CONNECTIONS: catalogue.TOO_MANY_CONNECTIONS,
    Limit.LISTENER_CONNECTIONS: catalogue.TOO_MANY_CONNECTIONS_HERE,
    Limit.CONNECTIONS_PER_IP: catalogue.TOO_MANY_CONNECTIONS_FROM_YOU,
    Limit.CONNECTIONS_PER_MINUTE_PER_IP: catalogue.CONNECTING_TOO_OFTEN,
    Limit.MESSAGES_PER_CONNECTION: catalogue.TOO_MANY_MESSAGES,
    Limit.MESSAGES_PER_MINUTE_PER_IP: catalogue.TOO_MANY_MESSAGES_FOR_NOW,
    Limit.RECIPIENTS_PER_MINUTE_PER_IP: catalogue.TOO_MANY_RECIPIENTS_FOR_NOW,
    Limit.MESSAGE_OCTETS: catalogue.MESSAGE_TOO_BIG,
    Limit.RECIPIENTS: catalogue.TOO_MANY_RECIPIENTS,
    Limit.BAD_COMMANDS: catalogue.TOO_MANY_BAD_COMMANDS,
    Limit.REFUSED_RECIPIENTS: catalogue.TOO_MANY_REFUSED_RECIPIENTS,
    Limit.BANNER_DELAY_SECONDS: catalogue.TALKED_TOO_EARLY,
}
_TOLD_BY: Final[Mapping[Reply, Limit]] = {reply: limit for limit, reply in REPLIES.items()}


@final
class LimitHits:
    """How often each limit was hit in this process."""

    def __init__(self) -> None:
        self._hits: Counter[Limit] = Counter()

    def count(self, limit: Limit) -> None:
        """Somebody was told of a limit."""
        self._hits[limit] += 1

    def count_reply(self, reply: Reply) -> Limit | None:
        """Something was answered; when it tells of a limit, it counts, and the limit is returned."""
        limit = _TOLD_BY.get(reply)
        if limit is not None:
            self.count(limit)
        return limit

    def snapshot(self) -> Mapping[Limit, int]:
        """The counts so far, of every limit; it does not change."""
        return MappingProxyType({limit: self._hits[limit] for limit in Limit})
