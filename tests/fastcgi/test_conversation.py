"""Client and responder talking to each other over two in-memory pipes, cut anywhere, in any order."""

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from tests.fastcgi.support import PATIENT
from trio_fcgimail.fastcgi import (
    NEED_DATA,
    PAUSED,
    ClientConnection,
    DataChunk,
    DataEnded,
    NameValue,
    ProtocolStatus,
    RecordIgnored,
    RequestAborted,
    RequestBegun,
    RequestEnded,
    ResponderConnection,
    ResponderOptions,
    Role,
    StderrChunk,
    StdinChunk,
    StdinEnded,
    StdoutChunk,
    StreamEnded,
)

params = st.dictionaries(
    st.text(alphabet="AB_", min_size=1, max_size=130).map(str.encode),
    st.integers(0, 300).map(lambda size: b"v" * size),
    max_size=5,
)
chunks = st.one_of(st.binary(max_size=20), st.integers(65_520, 65_540).map(bytes))

STREAMS: dict[Role, set[str]] = {Role.RESPONDER: {"in"}, Role.AUTHORIZER: set(), Role.FILTER: {"in", "data"}}


@dataclass(slots=True)
class Talk:
    """One request as the test knows it: what each side said, and what the other heard."""

    request_id: int
    role: Role
    params: tuple[NameValue, ...]
    said: dict[str, bytearray] = field(
        default_factory=lambda: {name: bytearray() for name in ("in", "data", "out", "err")}
    )
    heard: dict[str, bytearray] = field(
        default_factory=lambda: {name: bytearray() for name in ("in", "data", "out", "err")}
    )
    open_inputs: set[str] = field(default_factory=set)
    heard_ends: set[str] = field(default_factory=set)
    aborted: bool = False
    abort_heard: bool = False
    begun: bool = False
    ended_early: bool = False
    answered: int | None = None
    answer_heard: int | None = None


class Conversation(RuleBasedStateMachine):
    """Requests under up to 6 ids side by side; the responder multiplexes, or serves in order."""

    multiplex = True

    def __init__(self) -> None:
        super().__init__()
        self.client = ClientConnection()
        self.responder = ResponderConnection(ResponderOptions(multiplex=self.multiplex, max_requests=6))
        self.to_responder = bytearray()
        self.to_client = bytearray()
        self.by_client: dict[int, Talk] = {}
        self.by_responder: dict[int, Talk] = {}
        self.sent: list[Talk] = []
        self.done: list[Talk] = []
        self.paused = False

    talks: Bundle[Talk] = Bundle("talks")

    def may_begin(self) -> bool:
        return len(self.by_client) < 6

    @precondition(lambda self: self.may_begin())
    @rule(target=talks, role=st.sampled_from(Role), params=params)
    def begin(self, role: Role, params: dict[bytes, bytes]) -> Talk:
        request_id = next(n for n in range(1, 7) if n not in self.client.open_requests)
        talk = Talk(request_id=request_id, role=role, params=tuple(params.items()))
        talk.open_inputs = set(STREAMS[role])
        self.to_responder += self.client.begin_request(request_id, params=talk.params, role=role, keep_connection=True)
        self.by_client[request_id] = talk
        self.sent.append(talk)
        return talk

    @rule(talk=talks, stream=st.sampled_from(["in", "data"]), data=chunks)
    def send(self, talk: Talk, stream: str, data: bytes) -> None:
        if stream in talk.open_inputs:
            method = self.client.send_stdin if stream == "in" else self.client.send_data
            self.to_responder += method(talk.request_id, data)
            talk.said[stream] += data

    @rule(talk=talks, stream=st.sampled_from(["in", "data"]))
    def end_input(self, talk: Talk, stream: str) -> None:
        if stream in talk.open_inputs:
            talk.open_inputs.discard(stream)
            method = self.client.end_stdin if stream == "in" else self.client.end_data
            self.to_responder += method(talk.request_id)
            self.forget(talk)

    @rule(talk=consumes(talks))
    def abort(self, talk: Talk) -> None:
        if self.by_client.get(talk.request_id) is talk:
            self.to_responder += self.client.abort_request(talk.request_id)
            talk.aborted = True
            talk.open_inputs.clear()
            self.forget(talk)

    @rule(target=talks, talk=consumes(talks), stream=st.sampled_from(["out", "err"]), data=chunks)
    def answer(self, talk: Talk, stream: str, data: bytes) -> Talk:
        if self.by_responder.get(talk.request_id) is talk:
            method = self.responder.send_stdout if stream == "out" else self.responder.send_stderr
            self.to_client += method(talk.request_id, data)
            talk.said[stream] += data
        return talk

    @rule(target=talks, talk=consumes(talks), app_status=st.integers(0, 2**32 - 1))
    def end(self, talk: Talk, app_status: int) -> Talk | MultipleResults[Talk]:
        if self.by_responder.get(talk.request_id) is talk:
            self.end_now(talk, app_status)
            return talk if talk.open_inputs else multiple()
        return talk

    def end_now(self, talk: Talk, app_status: int) -> None:
        self.to_client += self.responder.end_request(talk.request_id, app_status)
        talk.answered = app_status
        talk.ended_early = bool(talk.open_inputs or (self.to_responder and not self.paused))
        del self.by_responder[talk.request_id]
        self.paused = False
        self.hear_client()

    def forget(self, talk: Talk) -> None:
        if talk.answer_heard is not None and not talk.open_inputs:
            self.by_client.pop(talk.request_id, None)

    @rule(octets=st.integers(1, 100_000))
    def carry_to_responder(self, octets: int) -> None:
        if not self.paused and self.to_responder:
            self.responder.receive_data(bytes(self.to_responder[:octets]))
            del self.to_responder[:octets]
            self.hear_client()

    def hear_client(self) -> None:
        while True:
            event = self.responder.next_event()
            match event:
                case RequestBegun(request_id=request_id):
                    talk = next(talk for talk in self.sent if talk.request_id == request_id and not talk.begun)
                    assert (event.role, event.params, event.keep_connection) == (talk.role, talk.params, True)
                    talk.begun = True
                    self.by_responder[request_id] = talk
                case StdinChunk(request_id=request_id, data=data):
                    self.by_responder[request_id].heard["in"] += data
                case DataChunk(request_id=request_id, data=data):
                    self.by_responder[request_id].heard["data"] += data
                case StdinEnded(request_id=request_id):
                    self.by_responder[request_id].heard_ends.add("in")
                case DataEnded(request_id=request_id):
                    self.by_responder[request_id].heard_ends.add("data")
                case RequestAborted(request_id=request_id):
                    self.by_responder[request_id].abort_heard = True
                case RecordIgnored(request_id=request_id):
                    # Only what was under way when the request was ended.
                    assert request_id not in self.by_responder
                case _:
                    assert event in {NEED_DATA, PAUSED}
                    self.paused = event is PAUSED
                    assert not (self.paused and self.multiplex)
                    return

    @rule(octets=st.integers(1, 100_000))
    def carry_to_client(self, octets: int) -> None:
        if self.to_client:
            self.client.receive_data(bytes(self.to_client[:octets]))
            del self.to_client[:octets]
            self.hear_responder()

    def hear_responder(self) -> None:
        while (event := self.client.next_event()) is not NEED_DATA:
            match event:
                case StdoutChunk(request_id=request_id, data=data):
                    self.by_client[request_id].heard["out"] += data
                case StderrChunk(request_id=request_id, data=data):
                    self.by_client[request_id].heard["err"] += data
                case StreamEnded():
                    pass
                case RequestEnded(request_id=request_id, app_status=app_status):
                    assert event.protocol_status is ProtocolStatus.REQUEST_COMPLETE
                    talk = self.by_client[request_id]
                    talk.answer_heard = app_status
                    self.done.append(talk)
                    self.forget(talk)
                case _:
                    raise AssertionError(event)

    @invariant()
    def nobody_hears_what_was_not_said(self) -> None:
        for talk in self.sent:
            for stream, heard in talk.heard.items():
                assert talk.said[stream].startswith(heard)

    @invariant()
    def ids_are_known_to_both(self) -> None:
        assert set(self.client.open_requests) == set(self.by_client)

    def teardown(self) -> None:
        """Let everything arrive, and every request come to its end."""
        for talk in list(self.by_client.values()):
            for stream in sorted(talk.open_inputs):
                self.end_input(talk, stream)
        while self.to_responder or self.by_responder:
            self.carry_to_responder(100_000)
            for talk in list(self.by_responder.values()):
                if not self.to_responder or self.paused:
                    self.end_now(talk, 7)
        while self.to_client:
            self.carry_to_client(100_000)
        for talk in self.sent:
            assert talk.answer_heard == talk.answered is not None
            assert talk.heard["out"] == talk.said["out"]
            assert talk.heard["err"] == talk.said["err"]
            for stream in talk.heard_ends:
                assert talk.heard[stream] == talk.said[stream]
            if not (talk.ended_early or talk.aborted):
                assert talk.heard_ends == STREAMS[talk.role]
            assert talk.aborted or not talk.abort_heard
            if self.multiplex and not talk.ended_early:  # in order, an abort behind the next request is not seen
                assert talk.abort_heard is talk.aborted
        assert self.client.open_requests == self.responder.open_requests == ()
        assert self.client.is_reusable is not any(talk.aborted for talk in self.sent)


class InOrder(Conversation):
    """One request after the other, the next perhaps sent before the answer to the one before."""

    multiplex = False

    def may_begin(self) -> bool:
        return not any(talk.open_inputs for talk in self.by_client.values()) and len(self.by_client) < 6


Conversation.TestCase.settings = InOrder.TestCase.settings = PATIENT

TestMultiplexed = Conversation.TestCase
TestInOrder = InOrder.TestCase
