"""An envelope while its recipients come in, within what a request has room for."""

from __future__ import annotations

from typing import Final, final

from trio_fcgimail.mail.envelope import DsnWish, Envelope
from trio_fcgimail.mail.request import has_room, octets_of, recipient_fields
from trio_fcgimail.smtp import Mailbox


@final
class EnvelopeDraft:
    """Collects recipients.

    Args:
        beginning: all but the recipients.

    Attributes:
        queue_id: That of the mail.
    """

    __slots__ = ("_envelope", "_fields", "_octets", "_recipients", "_wishes", "queue_id")

    def __init__(self, beginning: Envelope) -> None:
        self.queue_id: Final = beginning.queue_id
        self._envelope = beginning  # with as many recipients as it was asked for
        self._recipients: list[Mailbox] = []
        self._wishes: list[DsnWish] = []
        self._fields = 0  # of the recipients, in the request to come
        self._octets = 0

    @property
    def envelope(self) -> Envelope:
        """The envelope with the recipients so far."""
        if len(self._envelope.recipients) != len(self._recipients):
            self._envelope = self._envelope.addressed_to(tuple(self._recipients), tuple(self._wishes))
        return self._envelope

    def has_room_for(self, recipient: Mailbox, wish: DsnWish) -> bool:
        """Whether a request can name one more recipient."""
        fields = recipient_fields(len(self._recipients), recipient, wish)
        return has_room(self._fields + len(fields), self._octets + octets_of(fields))

    def add(self, recipient: Mailbox, wish: DsnWish) -> None:
        """Take a recipient for which there is room."""
        fields = recipient_fields(len(self._recipients), recipient, wish)
        self._fields += len(fields)
        self._octets += octets_of(fields)
        self._recipients.append(recipient)
        self._wishes.append(wish)
