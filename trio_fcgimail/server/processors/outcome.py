"""What the answers of a chain come to, reply by reply: one for the mail, or in LMTP one for each recipient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never, final

from trio_fcgimail.mail import Envelope, Meaning, Verdict, clean, failed, taken
from trio_fcgimail.server.processors.interface import (
    Discarded,
    EachRecipient,
    Failed,
    GoOn,
    OneAnswer,
    Refused,
    SaveAnswer,
    Stored,
)
from trio_fcgimail.smtp import RepliesAtEnd

_MAX_REASON_CHARACTERS = 500  # as of scripts


@final
@dataclass(slots=True)
class _Slot:
    """One reply that is owed.

    Attributes:
        stored: By the latest processor that did.
        verdict: None as long as the chain goes on for it.
    """

    stored: Stored | None = None
    verdict: Verdict | None = None


@final
class Outcomes:
    """Gathers the answers of a chain.

    Attributes:
        kept: Of the recipients that the latest processor was asked about, the positions of those still open.
    """

    def __init__(self, envelope: Envelope) -> None:
        self._queue_id = envelope.queue_id
        self._replies = envelope.session.dialect.replies_at_end
        self._recipients = len(envelope.recipients)
        self._slots = [_Slot() for _ in range(envelope.verdicts_owed)]
        self.kept: tuple[int, ...] = tuple(range(self._recipients))

    @property
    def is_open(self) -> bool:
        """Whether the chain goes on."""
        return bool(self._open())

    def _open(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.verdict is None]

    def take(self, answer: SaveAnswer, name: str) -> list[str]:
        """Take the answer of the next processor.

        Returns:
            Why, where what an earlier one stored is now called a failure.
        """
        slots = self._open()
        answers = self._for_each(answer, name, len(slots))
        told = [self._settle(slot, one, name) for slot, one in zip(slots, answers, strict=True)]
        if self._replies is RepliesAtEnd.EACH:
            self.kept = tuple(at for at, slot in enumerate(slots) if slot.verdict is None)
        return [reason for reason in told if reason]

    def _for_each(self, answer: SaveAnswer, name: str, open_slots: int) -> Sequence[OneAnswer]:
        """One for each reply that is open."""
        if not isinstance(answer, EachRecipient):
            return (answer,) * open_slots
        asked = open_slots if self._replies is RepliesAtEnd.EACH else self._recipients
        if len(answer.answers) != asked:
            return (Failed(f"{name} gave {len(answer.answers)} answers for {asked} recipients"),) * open_slots
        return answer.answers if self._replies is RepliesAtEnd.EACH else (_worst(answer.answers, name),)

    def _settle(self, slot: _Slot, answer: OneAnswer, name: str) -> str:
        """Returns why, when it was stored before and is a failure now."""
        match answer:
            case GoOn():
                return ""
            case Stored():
                before = "" if slot.stored is None else slot.stored.identifier
                slot.stored = Stored(answer.identifier or before, answer.note)
                return ""
            case Discarded(note=note):
                slot.verdict = self._accepted(slot) if slot.stored else taken(Meaning.DISCARDED, self._queue_id, note)
                return ""
            case Failed(reason=reason, reply=reply):
                slot.verdict = Verdict(Meaning.FAILED, reply, clean(reason, _MAX_REASON_CHARACTERS))
            case Refused(reply=reply, note=reason) if slot.stored is None:
                slot.verdict = Verdict(
                    Meaning.REFUSED, reply, clean(reason or f"refused by {name}", _MAX_REASON_CHARACTERS)
                )
            case Refused(reply=reply):
                slot.verdict = failed(f"{name} refused what was stored before: {reply.text}")
            case _:
                assert_never(answer)
        return "" if slot.stored is None else slot.verdict.reason

    def _accepted(self, slot: _Slot) -> Verdict:
        stored = slot.stored or Stored()
        return taken(Meaning.ACCEPTED, stored.identifier or self._queue_id, stored.note or "stored")

    def verdicts(self, *, discards: bool) -> tuple[Verdict, ...]:
        """The end of the chain.

        Args:
            discards: what nobody stored is to be dropped.
        """
        return tuple(slot.verdict or self._end(slot, discards=discards) for slot in self._slots)

    def _end(self, slot: _Slot, *, discards: bool) -> Verdict:
        if slot.stored is not None:
            return self._accepted(slot)
        if discards:
            return taken(Meaning.DISCARDED, self._queue_id, "chain.discard")
        return failed("no processor has stored the mail")


def _worst(answers: Sequence[OneAnswer], name: str) -> OneAnswer:
    """The one reply of SMTP: what some recipients have and others have not is a failure."""
    kinds = {type(answer) for answer in answers}
    for answer in answers:
        if isinstance(answer, Failed):
            return answer
    if Refused in kinds and not kinds & {Stored, Discarded}:
        return next(answer for answer in answers if isinstance(answer, Refused))
    if kinds <= {Stored, Discarded} or kinds == {GoOn}:
        return next((answer for answer in answers if isinstance(answer, Stored)), answers[0])
    return Failed(f"{name} did not do the same for all recipients")
