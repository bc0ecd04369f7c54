"""What is counted, how the numbers of several processes become one, and that the documents name what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from tests.support import MAIL, TEMPFAIL, House, Journal, ScriptedResponder, refuse, settings
from trio_fcgimail.mail import Meaning, Stage
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.metrics import BUCKETS, SPECS, Counts, Histogram, Metric, Series, Shape, Values, fold, samples
from trio_fcgimail.server.pool import Trip
from trio_fcgimail.server.status.exposition import render
from trio_fcgimail.server.status.guard import is_this_machine
from trio_fcgimail.server.status.history import KEPT_MOMENTS, WINDOW_LOOKS, History, quantile
from trio_fcgimail.server.workers import totals as totals_module
from trio_fcgimail.server.workers.channel import Counted, Enter, MailSeen
from trio_fcgimail.server.workers.desk import Desk, MisuseError
from trio_fcgimail.server.workers.reporter import MAX_MAILS, RecentMails
from trio_fcgimail.server.workers.totals import CountError, Totals

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
DASHBOARD: Final = ROOT / "examples" / "grafana" / "dashboard.json"
NAME: Final = re.compile(r"\bfcgimail_[a-z_]+")


def seen_by(house: House) -> dict[Series, Values]:
    gateway = house.gateway
    return dict(samples(gateway.counts, gateway.hits.snapshot(), gateway.scripts.upstreams, gateway.scripts.pool()))


def number(found: dict[Series, Values], metric: Metric, *labels: str) -> float:
    return found[Series(metric, labels)][0]


# Counting


@pytest.mark.trio
async def test_a_session_is_counted(nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal) -> None:
    responder = ScriptedResponder(nursery)
    house = House(nursery, journal, '[scripts]\nvalidate = "/v.php"', connect=responder.connect)
    house.gateway.scripts._counts = house.gateway.counts
    client = await house.guest()
    assert (await client.mail()).startswith(b"250 ")
    assert (await client.mail(b"bare\nnewline\r\n")).startswith(b"550 ")
    responder.act = refuse
    assert (await client.ask(b"MAIL FROM:<>")).startswith(b"250 ")
    assert (await client.ask(b"RCPT TO:<b@example.com>")).startswith(b"451 ")
    assert (await client.ask(b"RSET")).startswith(b"250 ")
    assert (await client.ask(b"NONSENSE")).startswith(b"500 ")
    assert (await client.ask(b"NOOP")).startswith(b"250 ")
    assert (await client.ask(b"QUIT")).startswith(b"221 ")
    found = seen_by(house)
    commands = {series.labels[0]: values[0] for series, values in found.items() if series.metric is Metric.COMMANDS}
    assert {name: times for name, times in commands.items() if times} == {
        "EHLO": 1,
        "MAIL": 3,
        "RCPT": 3,
        "DATA": 2,
        "RSET": 1,
        "NOOP": 1,
        "QUIT": 1,
        "unknown": 1,
    }
    replies = {series.labels[0]: values[0] for series, values in found.items() if series.metric is Metric.REPLIES}
    assert replies == {"220": 1, "250": 9, "354": 2, "550": 1, "451": 1, "500": 1, "221": 1}
    assert [number(found, Metric.MAILS, meaning.value) for meaning in Meaning] == [1, 0, 1, 0]
    assert number(found, Metric.MAIL_OCTETS) >= len(MAIL)
    assert sum(found[Series(Metric.MAIL_SECONDS)][:-1]) == 2
    upstream = house.gateway.scripts.upstreams[0]
    assert sum(found[Series(Metric.SCRIPT_SECONDS, ("save", upstream))][:-1]) == 1
    assert sum(found[Series(Metric.SCRIPT_SECONDS, ("validate", upstream))][:-1]) == 2
    assert number(found, Metric.UPSTREAM_REQUESTS, upstream) == 3
    assert number(found, Metric.UPSTREAM_FAILURES, upstream, "not_connected") > 0
    assert number(found, Metric.RECEIVED_OCTETS) > 100
    assert number(found, Metric.SENT_OCTETS) > 100


@pytest.mark.trio
async def test_chunks_and_logins_are_counted_once(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    toml = '[[listeners]]\naddress = "127.0.0.1:1"\nauth_without_tls = true\n[scripts]\nauth = "/a.php"'
    house = House(nursery, journal, toml, connect=ScriptedResponder(nursery).connect)
    client = await house.guest()
    assert (await client.ask(b"AUTH LOGIN")).startswith(b"334 ")
    assert (await client.ask(b"Ym9i")).startswith(b"334 ")
    assert (await client.ask(b"c2VjcmV0")).startswith(b"454 ")  # SAVED is no answer to that
    assert (await client.ask(b"AUTH LOGIN !")).startswith(b"501 ")
    await client.ask(b"MAIL FROM:<a@client.example>")
    await client.ask(b"RCPT TO:<b@example.com>")
    for chunk in (b"BDAT 3\r\na\r\n", b"BDAT 3\r\nb\r\n", b"BDAT 3 LAST\r\nc\r\n"):
        await client.send(chunk)
        assert (await client.reply()).startswith(b"250 ")
    found = seen_by(house)
    assert number(found, Metric.COMMANDS, "AUTH") == 2
    assert number(found, Metric.COMMANDS, "BDAT") == 3
    assert number(found, Metric.COMMANDS, "DATA") == 0
    assert number(found, Metric.REPLIES, "334") == 2


@pytest.mark.parametrize(
    ("replies", "codes"),
    [
        pytest.param(b"250 2.0.0 OK\r\n", {b"250": 1}, id="one"),
        pytest.param(b"250-mx\r\n250-PIPELINING\r\n250 8BITMIME\r\n", {b"250": 1}, id="of-several-lines"),
        pytest.param(b"250 a\r\n550 b\r\n250-c\r\n250 d\r\n", {b"250": 2, b"550": 1}, id="several"),
        pytest.param(b"250\r\n", {b"250": 1}, id="bare-code"),
        pytest.param(b"", {}, id="none"),
    ],
)
def test_replies_are_counted_by_code(replies: bytes, codes: dict[bytes, int]) -> None:
    counts = Counts()
    counts.said(replies)
    assert counts.replies == codes


def test_a_bound_is_within_its_bucket() -> None:
    histogram = Histogram()
    for seconds in (0.0, BUCKETS[0], BUCKETS[0] + 1e-9, BUCKETS[-1], BUCKETS[-1] + 1):
        histogram.add(seconds)
    *counts, total = histogram.values()
    assert (counts[0], counts[1], counts[-2], counts[-1], sum(counts)) == (2, 1, 1, 1, 5)
    assert total == pytest.approx(61.002, abs=0.001)


def test_what_was_sent_nowhere_is_no_request() -> None:
    counts = Counts()
    counts.asked(Stage.SAVE, Trip())
    assert counts.scripts == {}


# Adding up


MAILS: Final = Series(Metric.MAILS, ("accepted",))
OPEN: Final = Series(Metric.OPEN_CONNECTIONS)
LIMIT: Final = Series(Metric.UPSTREAM_CONNECTION_LIMIT, ("unix:/s",))
SECONDS: Final = Series(Metric.MAIL_SECONDS)
TWO: Final = tuple(map(float, range(len(BUCKETS) + 2)))


def test_numbers_of_the_dead_stay_and_their_states_go() -> None:
    totals = Totals()
    totals.hear(1, [(MAILS, (5.0,)), (OPEN, (2.0,)), (LIMIT, (3.0,)), (SECONDS, TWO)])
    totals.hear(2, [(MAILS, (7.0,)), (OPEN, (1.0,)), (LIMIT, (5.0,)), (SECONDS, TWO)])
    assert dict(totals.samples()) == {
        MAILS: (12.0,),
        OPEN: (3.0,),
        LIMIT: (3.0,),
        SECONDS: tuple(2 * value for value in TWO),
    }
    totals.leave(1)
    assert dict(totals.samples())[MAILS] == (12.0,)
    assert dict(totals.samples())[SECONDS] == tuple(2 * value for value in TWO)
    assert (dict(totals.samples())[OPEN], dict(totals.samples())[LIMIT]) == ((1.0,), (5.0,))
    totals.hear(3, [(MAILS, (1.0,))])
    totals.leave(3)
    totals.leave(4)  # who never said anything
    assert dict(totals.samples())[MAILS] == (13.0,)


@pytest.mark.parametrize(
    "sample",
    [
        pytest.param((MAILS, (4.0,)), id="less-than-before"),
        pytest.param((SECONDS, (0.0,) * len(TWO)), id="less-in-a-bucket"),
        pytest.param((MAILS, (5.0, 6.0)), id="two-numbers"),
        pytest.param((SECONDS, (5.0,)), id="one-number"),
        pytest.param((Series(Metric.MAILS), (6.0,)), id="without-its-label"),
    ],
)
def test_a_child_that_counts_wrongly_is_not_believed(sample: tuple[Series, Values]) -> None:
    totals = Totals()
    totals.hear(1, [(MAILS, (5.0,)), (SECONDS, TWO)])
    with pytest.raises(CountError):
        totals.hear(1, [sample])


def test_a_child_counts_only_so_many_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals_module, "MAX_SERIES", 3)
    desk = Desk(settings(), clock=lambda: 0.0)
    holder = desk.join(lambda _: None)
    many: list[tuple[Metric, tuple[str, ...], Values]] = [(Metric.REPLIES, (str(code),), (1.0,)) for code in range(4)]
    desk.hear(holder, Counted(many[:3]))
    desk.hear(holder, Counted(many[:3]))
    desk.hear(holder, Enter(1))
    with pytest.raises(MisuseError, match="more than 3 numbers"):
        desk.hear(holder, Counted(many))
    desk.leave(holder)
    assert sum(values[0] for _, values in desk.totals.samples()) == 3


def test_of_several_the_least() -> None:
    assert fold(Shape.LEAST, [(3.0,), (2.0,), (5.0,)]) == (2.0,)


def mail(queue_id: str) -> MailSeen:
    return MailSeen(0, queue_id, "", "", "", "", "", 0, Meaning.ACCEPTED, "", "", 0, 0, "", "")


def test_mails_are_given_once_and_the_oldest_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    totals = Totals()
    for queue_id in "abc":
        totals.see(mail(queue_id))
    assert [one.queue_id for one in totals.mails_after(1)] == ["b", "c"]
    assert totals.mails_after(3) == totals.mails_after(99) == ()
    for at in range(200):
        totals.see(mail(str(at)))
    assert len(totals.mails_after(0)) == totals_module.MAX_MAILS
    assert totals.mails_after(0)[-1].queue_id == "199"
    assert totals.mails_seen == 203


@pytest.mark.trio
async def test_a_mail_for_people_is_short_and_clean(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    recent = RecentMails()
    responder = ScriptedResponder(nursery)
    house = House(nursery, journal, connect=responder.connect, observers=(recent,))
    client = await house.guest()
    for _ in range(MAX_MAILS + 3):
        assert (await client.mail(b"Subject: =?utf-8?q?a=1B[31m=E2=80=A8" + b"x" * 300 + b"?=\r\n\r\n")).startswith(
            b"250"
        )
    responder.act = refuse
    assert await client.mail() == TEMPFAIL
    seen = list(recent.take())
    assert len(seen) == MAX_MAILS + 1
    assert len(seen[0].subject) <= 200
    assert seen[0].subject.isprintable()
    assert (seen[0].verdict, seen[0].peer, seen[0].rcpts) == (Meaning.ACCEPTED, "192.0.2.1", "b@example.com")
    assert seen[0].upstream == house.gateway.scripts.upstreams[0]
    assert seen[-1].verdict is Meaning.FAILED
    assert list(recent.take()) == []


# Showing


def everything() -> dict[Series, Values]:
    """One sample of each metric, with a label that has to be escaped."""
    return {
        Series(metric, tuple(f'"{name}"\n\\' for name in spec.labels)): tuple(float(at + 1) for at in range(spec.width))
        for metric, spec in SPECS.items()
    }


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"], ids=["text", "openmetrics"])
def test_prometheus_can_read_all_of_it(accept: str) -> None:
    page, content_type = render(everything().items(), accept)
    assert content_type.startswith("application/openmetrics-text" if accept else "text/plain; version=0.0.4")
    if accept:
        assert page.endswith(b"# EOF\n")
        return
    families = {family.name: family for family in text_string_to_metric_families(page.decode())}
    assert len(families) == len(SPECS) + 1
    for metric, spec in SPECS.items():
        family = families[f"fcgimail_{metric.value}"]
        assert set(spec.labels) <= set(family.samples[0].labels)
        for name in spec.labels:
            assert family.samples[0].labels[name] == f'"{name}"\n\\'
        if spec.shape is Shape.HISTOGRAM:
            values = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
            assert values == sorted(values)
            assert len(values) == len(BUCKETS) + 1


def exposed() -> dict[str, tuple[str, set[str]]]:
    """The names that a reader of /metrics sees, with their types and labels."""
    page, _ = render(everything().items(), "")
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = (family.type, set(family.samples[0].labels) - {"le"})
    return found


def test_the_documentation_has_each_metric_and_no_other() -> None:
    section = PAGE.partition("\n## Metrics\n")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| `(fcgimail_[a-z_]+)` \| ([a-z]+) \| ([a-z, ]*?) ?\| [^|]+ \|$", section, re.MULTILINE)
    assert {name: (kind, set(re.findall("[a-z]+", labels))) for name, kind, labels in rows} == exposed()
    keys = re.findall(r"^\| `(?:limits\.)?([a-z_.]+)`", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE)
    assert {limit.value for limit in Limit} - {Limit.FAILED_LOGINS.value} <= set(keys)


def named() -> set[str]:
    """Every name that a query may use."""
    names = set()
    for name, (kind, _) in exposed().items():
        names |= {f"{name}_bucket", f"{name}_count", f"{name}_sum"} if kind == "histogram" else {name}
    return names


def test_alerts_name_what_there_is() -> None:
    section = PAGE.partition("\n### Alerts")[2].partition("\n## ")[0]
    assert len(re.findall(r"- alert: ", section)) == 3
    used = set(NAME.findall(section)) - {"fcgimail_"}
    assert used
    assert used <= named()


def test_the_dashboard_is_whole_and_names_what_there_is() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert {"title", "uid", "schemaVersion", "templating", "panels"} <= dashboard.keys()
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    for expression in expressions:
        assert set(NAME.findall(expression)) <= named(), expression
        assert expression.count("(") == expression.count(")")
        assert expression.count("{") == expression.count("}")
    shown = {name for expression in expressions for name in NAME.findall(expression)}
    assert {name.removesuffix("_bucket") for name in shown} == set(exposed())  # and none is forgotten
    cells = [(x, y) for panel in panels for x, y in _cells(**panel["gridPos"])]
    assert len(cells) == len(set(cells))
    assert all(0 <= x < 24 for x, _ in cells)


def _cells(x: int, y: int, w: int, h: int) -> list[tuple[int, int]]:
    return [(column, row) for column in range(x, x + w) for row in range(y, y + h)]


# The page's history


def test_moments_are_rates_by_the_second() -> None:
    history = History()
    history.add({MAILS: (10.0,), OPEN: (1.0,)}, 100.0)
    assert history.after(0) == []
    counts = [0.0] * (len(BUCKETS) + 1)
    counts[1] = 4.0
    now = {MAILS: (14.0,), OPEN: (3.0,), Series(Metric.SCRIPT_SECONDS, ("save", "unix:/s")): (*counts, 0.01)}
    history.add(now, 102.0)
    (first,) = history.after(0)
    assert (first.number, first.accepted, first.open, first.check) == (1, 2.0, 3.0, None)
    assert first.save is not None
    assert list(first.save) == pytest.approx([0.00175, 0.002425])
    for at in range(WINDOW_LOOKS):
        history.add(now, 103.0 + at)
    last = history.after(0)[-1]
    assert (last.accepted, last.save) == (0.0, None)
    assert history.after(last.number - 1) == [last]
    for at in range(KEPT_MOMENTS + 10):
        history.add({}, 200.0 + at)
    assert len(history.after(0)) == KEPT_MOMENTS


def test_a_clock_that_goes_back_makes_no_moment() -> None:
    history = History()
    history.add({}, 100.0)
    history.add({}, 99.0)
    assert history.after(0) == []
    history.add({}, 100.0)
    assert len(history.after(0)) == 1


@pytest.mark.parametrize(
    ("counts", "share", "seconds"),
    [
        pytest.param([1], 0.5, 0.0005, id="first-bucket"),
        pytest.param([0, 2], 1.0, 0.0025, id="its-upper-bound"),
        pytest.param([1, 1], 0.5, 0.001, id="between-two"),
        pytest.param([0] * 14 + [3], 0.95, 30.0, id="beyond-all"),
    ],
)
def test_quantiles(counts: list[float], share: float, seconds: float) -> None:
    whole = counts + [0.0] * (len(BUCKETS) + 1 - len(counts))
    assert quantile(whole, share) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost", True),
        ("LOCALHOST:8025", True),
        ("127.0.0.1:8025", True),
        ("127.9.9.9", True),
        ("[::1]:8025", True),
        ("[::1]", True),
        ("", False),
        ("mx.example.com:8025", False),
        ("localhost.example.com", False),
        ("192.0.2.1:8025", False),
        ("127.0.0.1.example.com:8025", False),
        ("[::2]:8025", False),
        (":8025", False),
    ],
)
def test_which_names_are_this_machine(host: str, is_ours: bool) -> None:
    assert is_this_machine(host) is is_ours
