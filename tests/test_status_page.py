"""The page in a real Chromium, beside a server under load: figures that change, phone, dark, keyboard, and no harm."""

from __future__ import annotations

import smtplib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.chromium import Chromium, find_chromium
from tests.cli.support import configuration, write_configuration
from tests.phpfpm import open_folder
from tests.server.responder_process import acting
from tests.server_process import SECONDS, ServerProcess, eventually, free_port
from tests.support import Line, stderr
from tests.test_status import status

NASTY: Final = "<img src=x onerror=alert(1)>&amp;<b>bold</b>"
WARNING: Final = f"PHP Warning: {NASTY}"
LATER: Final = "the database is away"
PHONE: Final = (360, 740)
DESK: Final = (1280, 900)


async def scripts(line: Line) -> None:
    """Scripts that do as the subject says."""
    while True:
        request = await line.request()
        if not request.is_post:
            await line.answer(b"PASSED")
            continue
        subject = request.fields["subject"]
        if NASTY in subject:
            await line.write(stderr(WARNING.encode()))
        answers = {"refuse": b"550 5.7.1 Not wanted here", "defer": LATER.encode()}
        await line.answer(next((answer for word, answer in answers.items() if word in subject), b"SAVED"))


@dataclass(slots=True)
class Load:
    """Mails that come until the end.

    Attributes:
        port: where to.
        is_over: set to end it.
    """

    port: int
    is_over: threading.Event

    def send(self) -> None:
        """In a thread."""
        subjects = ("Minutes of the meeting", "Invoice", NASTY, "refuse me", "Minutes, again", "defer me")
        number = 0
        with smtplib.SMTP("127.0.0.1", self.port, timeout=SECONDS) as client:
            while not self.is_over.wait(0.05):
                subject = subjects[number % len(subjects)]
                number += 1
                try:
                    content = f"Subject: {subject}\r\n\r\nx\r\n".encode()
                    client.sendmail("alice@client.example", ["bob@example.com", "info@example.com"], content)
                except smtplib.SMTPResponseException:
                    client.rset()


@contextmanager
def under_load(port: int) -> Iterator[None]:
    load = Load(port, threading.Event())
    thread = threading.Thread(target=load.send)
    thread.start()
    try:
        yield
    finally:
        load.is_over.set()
        thread.join(SECONDS)


@dataclass(frozen=True, slots=True)
class Scene:
    """A browser that looks at the page of a server."""

    browser: Chromium
    server: ServerProcess
    url: str
    pictures: Path

    def fresh(self, size: tuple[int, int] = DESK, *, dark: bool = False) -> Chromium:
        """The page, opened anew, once it has something to show."""
        self.browser.show(*size, dark=dark)
        self.browser.open(self.url)
        self.browser.wait_for("document.querySelectorAll('#mail-list li').length >= 6")
        self.browser.wait_for("document.querySelectorAll('.curve').length >= 4")
        return self.browser


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    find_chromium()
    port = free_port()
    pictures = tmp_path_factory.mktemp("pictures")
    with open_folder() as folder, acting(folder / "fcgi", scripts):
        more = f'[status]\naddress = "127.0.0.1:{port}"\n[log]\nlevel = "info"\n'
        text = configuration(upstream=f"unix:{folder}/fcgi", validate="/v.php", more=more)
        write_configuration(folder, text)
        with ServerProcess("serve", folder=folder) as server:
            eventually(lambda: status(port, "/healthz") == 200, "it is on")
            with under_load(server.port), Chromium(tmp_path_factory.mktemp("browser")) as browser:
                yield Scene(browser, server, f"http://127.0.0.1:{port}/", pictures)
            assert server.stop() == 0
            assert "status page failed" not in server.log


def test_figures_live_and_come_from_nowhere_else(scene: Scene) -> None:
    page = scene.fresh()
    before = page.evaluate("[at('accepted').textContent, document.querySelector('.area').getAttribute('d')]")
    page.wait_for(f"Number(at('accepted').textContent.replace(',', '')) > {before[0].replace(',', '')}")
    page.wait_for(f"document.querySelector('.area').getAttribute('d') !== {before[1]!r}")
    assert page.evaluate("at('state').textContent") == "Serving"
    assert page.evaluate("at('hostname').textContent") == "mx.example.com"
    for name in ("refused", "failed"):
        page.wait_for(f"Number(at('{name}').textContent) > 0")
    page.wait_for(r"/[0-9]\sm?s/.test(at('save').textContent)")
    page.wait_for("/ busy, .* of 2 connections/.test(at('upstreams').textContent)")
    assert page.evaluate("document.querySelectorAll('.plot').length") == 4
    scene.browser.picture(scene.pictures / "light.png")
    assert page.problems() == []
    assert {address for address in page.requested() if not address.startswith(scene.url)} <= {"about:blank"}


def test_mails_show_what_scripts_said_and_nothing_of_it_is_html(scene: Scene) -> None:
    page = scene.fresh()
    page.evaluate("at('pause').click()")
    find = "[...document.querySelectorAll('#mail-list details')].find((one) => one.textContent.includes({0!r}))"
    for words in (WARNING, LATER, "550 5.7.1 Not wanted here"):
        page.evaluate(find.format(words) + ".open = true")
    assert page.evaluate("document.querySelector('#mail-list pre').textContent") == WARNING
    shown = page.evaluate("at('mail-list').textContent")
    for words in ("alice@client.example → bob@example.com, info@example.com", NASTY, "Deferred", "Queue id"):
        assert words in shown
    assert page.evaluate("document.querySelectorAll('#mail-list :is(img, b, script)').length") == 0
    page.picture(scene.pictures / "mails.png", 800)
    assert page.problems() == []


def test_it_fits_a_phone(scene: Scene) -> None:
    page = scene.fresh(PHONE)
    page.evaluate("for (const one of document.querySelectorAll('#mail-list details')) one.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    beyond = (
        "[...document.querySelectorAll('main *')].filter((one) => one.getBoundingClientRect().right > innerWidth + 1)"
    )
    assert page.evaluate(f"{beyond}.filter((one) => !one.closest('svg, .unseen')).map((one) => one.className)") == []
    small = "[...document.querySelectorAll('button, summary, .filters label, .find input')]"
    heights = page.evaluate(f"{small}.map((one) => one.getBoundingClientRect().height)")
    assert min(height for height in heights if height) >= 24  # WCAG 2.2, 2.5.8
    page.picture(scene.pictures / "phone.png", 0, 2400)


#: The contrast of each text against what is behind it (WCAG 2.2, 1.4.3), in the browser.
CONTRAST: Final = """
(() => {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (color) => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = color;
    paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
    .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const worst = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !one.checkVisibility() || one.closest("noscript, .unseen")) continue;
    const style = getComputedStyle(one);
    const color = parse(one.closest("svg") ? style.fill : style.color);
    const [high, low] = [light(color), light(ground(one))].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    const name = one.tagName + "." + (one.getAttribute("class") || "");
    worst[name] = Math.min(worst[name] || 99, ratio);
  }
  return worst;
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read(scene: Scene, *, dark: bool) -> None:
    page = scene.fresh(dark=dark)
    page.evaluate("for (const one of [...document.querySelectorAll('#mail-list details')].slice(0, 8)) one.open = true")
    worst = page.evaluate(CONTRAST)
    assert len(worst) > 15
    assert {name: ratio for name, ratio in worst.items() if ratio < 4.5} == {}
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (max(red, green, blue) < 64) is dark
    page.picture(scene.pictures / f"{'dark' if dark else 'light'}-whole.png")


def test_everything_has_a_name(scene: Scene) -> None:
    page = scene.fresh()
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles: dict[str, int] = {}
    for node in nodes:
        role = node.get("role", {}).get("value", "")
        if node.get("ignored") or role not in WANTED:
            continue
        roles[role] = roles.get(role, 0) + 1
        assert node.get("name", {}).get("value"), role
    assert roles.keys() == WANTED
    page.call("Accessibility.disable")


WANTED: Final = frozenset(
    {"link", "button", "slider", "radio", "searchbox", "meter", "heading", "region", "search", "DisclosureTriangle"}
)


def focused(page: Chromium) -> str:
    """What has the focus, and shows it."""
    name, shown = page.evaluate(
        """(() => {
          const one = document.activeElement;
          const style = (node) => getComputedStyle(node).outlineStyle;
          return [one.id || one.className || one.value || one.textContent.trim() || one.tagName,
                  style(one) !== "none" || style(one.nextElementSibling || one) !== "none"];
        })()"""
    )
    assert shown, f"the focus is on {name}, and nobody can see it"
    return str(name)


def test_the_keyboard_is_enough(scene: Scene) -> None:
    page = scene.fresh()
    path = []
    for _ in range(8):
        page.press("Tab")
        path.append(focused(page))
    assert path[:6] == ["skip", "pause", *["canvas"] * 4]
    assert path[7] == "find"  # and the choice of verdicts before it
    page = scene.fresh()
    page.press("Tab")
    page.press("Tab")
    assert focused(page) == "pause"
    page.press("Enter")
    assert page.evaluate("[at('pause').ariaPressed, at('state').textContent].join()") == "true,Paused"
    page.press("Tab")
    now = page.evaluate("document.activeElement.getAttribute('aria-valuetext')")
    assert now.startswith("now: accepted ")
    page.press("ArrowLeft")
    then = page.evaluate("document.activeElement.getAttribute('aria-valuetext')")
    assert then != now
    assert ": accepted " in then
    assert page.evaluate("document.querySelectorAll('.cursor').length") == 1
    page.press("End")
    assert page.evaluate("document.activeElement.getAttribute('aria-valuetext')") == now
    for _ in range(4):
        page.press("Tab")
    page.press("ArrowRight")  # from all to accepted
    page.press("ArrowRight")
    assert page.evaluate("document.querySelector('#filters :checked').value") == "refused"
    visible = "[...at('mail-list').children].filter((one) => !one.hidden).map((one) => one.dataset.verdict)"
    assert set(page.evaluate(visible)) == {"refused"}
    page.press("Tab")
    assert focused(page) == "find"
    page.call("Input.insertText", text="nothing like this")
    assert page.evaluate(visible) == []
    assert "None of the latest mails" in page.evaluate("at('no-mails').textContent")
    for _ in range(len("nothing like this")):
        page.call("Input.dispatchKeyEvent", type="keyDown", key="Backspace", windowsVirtualKeyCode=8)
        page.call("Input.dispatchKeyEvent", type="keyUp", key="Backspace", windowsVirtualKeyCode=8)
    page.press("Tab")
    page.press("Enter")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert page.evaluate("document.activeElement.parentElement.open")
    page.picture(scene.pictures / "keyboard.png", 600)
    assert page.problems() == []


def test_a_server_that_is_gone_is_told_of(scene: Scene) -> None:
    page = scene.fresh()
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    page.wait_for("at('state').textContent === 'No connection'")
    page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    page.wait_for("at('state').textContent === 'Serving'")
