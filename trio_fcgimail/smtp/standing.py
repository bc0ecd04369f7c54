"""Where a session stands: what both sides have agreed on, what is under way, and what is used up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from trio_fcgimail.smtp.errors import RemoteProtocolError
from trio_fcgimail.smtp.events import CloseReason
from trio_fcgimail.smtp.offer import make_offer
from trio_fcgimail.smtp.options import Extension, ServerOptions
from trio_fcgimail.smtp.replies import Outcome, Reply
from trio_fcgimail.smtp.sasl import Login
from trio_fcgimail.smtp.state import State, Verb, next_state
from trio_fcgimail.smtp.tally import Tally
from trio_fcgimail.smtp.transaction import Transaction


@final
class Standing:
    """What every line of the client is judged by. Replies move it, and the end of a TLS handshake.

    Attributes:
        options: as the embedder chose them.
        state: of the table.
        tls: whether the connection is encrypted.
        offer: what the client may use now.
        login: whether it has authenticated.
        transaction: the mail under way.
        tally: what the client has used up; the only thing that nothing sets back.
        close_reason: why there is nothing more to come, once the state is CLOSED.
    """

    __slots__ = ("_enhanced", "close_reason", "login", "offer", "options", "state", "tally", "tls", "transaction")

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self._enhanced = Extension.ENHANCED_STATUS_CODES in options.extensions
        self.state = State.CONNECTED
        self.tls = options.tls
        self.tally = Tally(options)
        self.close_reason = CloseReason.REPLY
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget all that the client has said (RFC 3207 4.2)."""
        self.login = Login.NONE
        self.offer = make_offer(self.options, self.tls, None)
        self.forget_mail()

    def forget_mail(self) -> None:
        """The mail under way is over, or has come to nothing."""
        self.transaction = Transaction(self.options)

    def say(self, verb: Verb, replies: Sequence[Reply]) -> bytes:
        """Let replies to ``verb`` move the state, and encode them; the first that closes decides, else the first.

        Raises:
            LocalProtocolError: the reply has no meaning here; then nothing has changed.
        """
        decisive = replies[0]
        if len(replies) > 1:
            decisive = next((reply for reply in replies if reply.outcome is Outcome.CLOSE), decisive)
        self.state = next_state(self.state, verb, decisive.outcome)
        if self.state is _CLOSED:
            self.close_reason = CloseReason.QUIT if verb is Verb.QUIT else CloseReason.REPLY
        return b"".join([self._render(reply) for reply in replies])

    def lose(self, problem: str, reply: Reply) -> RemoteProtocolError:
        """The stream cannot be followed: the error to raise. The state is CLOSED by then."""
        self.end(CloseReason.ERROR)
        return RemoteProtocolError(problem, reply=reply, to_send=self._render(reply))

    def end(self, reason: CloseReason) -> None:
        """It is over, without a reply that says so."""
        self.state = State.CLOSED
        self.close_reason = reason

    def _render(self, reply: Reply) -> bytes:
        return reply.render(enhanced=self._enhanced, utf8=self.transaction.smtputf8)


_CLOSED: Final = State.CLOSED
