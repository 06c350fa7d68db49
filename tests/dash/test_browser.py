"""The dashboard in Chromium, over a server process that may be killed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dash_tools import answer, make_run, steps, tell

from keel.runs import logs
from keel.runs.rollouts import KeptRollout, Rollouts

pytestmark = pytest.mark.stages
ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
# Pixels of a canvas that are near to a colour: [x share, y share] of each, at most 4000 of them
INKED = """([selector, wanted, near]) => {
  const canvas = document.querySelector(selector);
  const { width, height } = canvas;
  const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
  const found = [];
  for (let i = 0; i < data.length && found.length < 4000; i += 4)
    if (data[i + 3] > 60 && [0, 1, 2].every((k) => Math.abs(data[i + k] - wanted[k]) < near))
      found.push([(i / 4 % width) / width, Math.floor(i / 4 / width) / height]);
  return found;
}"""


class Dash:
    """A dashboard in a process of its own, always at the same address."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "keel.cli", "dash", str(self.root), "--port", str(self.port), "--no-browser"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        line = self.process.stdout.readline() if self.process.stdout else ""
        assert self.url in line, f"the server did not start: {line}"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)


@pytest.fixture
def dash(root: Path) -> Iterator[Dash]:
    found = Dash(root)
    yield found
    if found.process.poll() is None:
        found.process.terminate()
        assert found.process.wait(20) == 0


@pytest.fixture
def visit(browser: Any, dash: Dash) -> Iterator[Callable[..., Any]]:
    """``visit(path, **options)``: a page. Errors in its console fail the test at its end."""
    problems: list[str] = []
    made: list[Any] = []

    def note(message: Any) -> None:
        lost = "Failed to load resource" in message.text or "ERR_" in message.text
        if message.type == "error" and not lost:
            problems.append(message.text)

    def make(path: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", **options})
        made.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", note)
        page.goto(dash.url + path)
        return page

    yield make
    for context in made:
        context.close()
    assert not problems, problems


def _drawn(page: Any) -> None:
    page.wait_for_selector("body[data-drawn=yes]")


def _seen(page: Any, chart: str, step: int) -> None:
    page.wait_for_function("([c, s]) => Number(document.querySelector(`[data-chart='${c}']`)?.dataset.last) === s", arg=[chart, step])


def test_a_new_step_is_seen_without_asking(root: Path, visit: Callable[..., Any]) -> None:
    run = make_run(root / "r", steps(3))
    page = visit("/view?r=r")
    _drawn(page)
    _seen(page, "reward", 3)
    page.wait_for_selector("#live[data-live=on]")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "reward": 7.25}\n{"step": 5, "rew')
    _seen(page, "reward", 4)
    assert page.locator("[data-chart=reward] .legend b").inner_text() == "7.25"
    assert asked == []  # it came by the stream that was open
    logs.append(run / "abandoned.jsonl", [{"step": 4, "rollback": 1, "reward": 7.25}])
    logs.cut_end(run / "metrics.jsonl", lambda row: row["step"] > 2)
    page.wait_for_function("() => document.querySelector('[data-chart=reward] .legend b').textContent === '2'")


def test_a_server_that_is_killed_and_comes_back_goes_on(root: Path, dash: Dash, visit: Callable[..., Any]) -> None:
    run = make_run(root / "r", steps(3))
    page = visit("/view?r=r")
    _drawn(page)
    page.wait_for_selector("#live[data-live=on]")
    dash.kill()
    page.wait_for_selector("#live[data-live=off]")
    logs.append(run / "metrics.jsonl", [{"step": 4, "reward": 7.5}])
    dash.start()
    _seen(page, "reward", 4)
    assert sorted(p.name for p in run.iterdir()) == ["manifest.json", "metrics.jsonl"]  # it has left nothing


def test_a_spike_and_a_nan_of_a_long_run_are_in_the_picture(root: Path, visit: Callable[..., Any]) -> None:
    kl = {30_000: 40.0}
    make_run(root / "r", steps(40_000, kl=lambda i: kl.get(i, 0.5), loss=lambda i: "NaN" if i == 10_000 else 1.0))
    page = visit("/view?r=r")
    _drawn(page)
    page.wait_for_function(
        "() => Number(document.querySelector('[data-chart=kl]').dataset.last) > 39000 && document.querySelector('#reading').hidden"
    )
    for chart, colour, place in (("kl", [0x12, 0x85, 0x7B], "y < 0.35"), ("loss", [0xB3, 0x26, 0x1E], "y > 0.5")):
        page.evaluate(f"document.querySelector('[data-chart={chart}]').scrollIntoView()")
        ink = f"({INKED})(['[data-chart={chart}] canvas', {colour}, {110 if chart == 'kl' else 40}])"
        asked = f"{ink}.filter(([x, y]) => x > 0.15 && {place})"  # right of the axis
        page.wait_for_function(f"() => document.querySelector('[data-chart={chart}] canvas') && {asked}.length > 0")
        across = [x for x, _ in page.evaluate(asked)]
        assert all(0.6 < x < 0.9 if chart == "kl" else 0.2 < x < 0.5 for x in across), (chart, min(across), max(across))


def test_alarms_rollbacks_and_what_was_taken_back(root: Path, visit: Callable[..., Any]) -> None:
    run = make_run(root / "r", steps(10, kl=0.1))
    logs.append(run / "abandoned.jsonl", [{"step": i, "rollback": 1, "kl": 9.0} for i in (4, 5, 6)])
    tell(run, {"kind": "verdict", "step": 6, "level": "critical", "message": "kl > 2 <b>", "rule": "kl", "undone": 3})
    tell(run, {"kind": "emergency", "step": 6, "back_to": 3, "message": "back to step 3"})
    page = visit("/view?r=r")
    _drawn(page)
    page.locator("[data-chart=kl] canvas").scroll_into_view_if_needed()
    page.wait_for_function(f"() => ({INKED})(['[data-chart=kl] canvas', [0xb3, 0x26, 0x1e], 40]).length > 50")
    lost = page.evaluate(INKED, ["[data-chart=kl] canvas", [0x12, 0x85, 0x7B], 60])
    assert any(y < 0.35 for _, y in lost)  # 9.0 stands above 0.1
    page.click("#tab-events")
    assert page.locator("#part-events tbody tr").count() == 2
    page.get_by_role("button", name="6").first.click()
    assert page.input_value("#high") == "56"


def test_zoom_asks_for_the_steps_between(root: Path, visit: Callable[..., Any]) -> None:
    make_run(root / "r", steps(20_000))
    page = visit("/view?r=r")
    _drawn(page)
    page.fill("#low", "100")
    page.fill("#high", "150")
    page.keyboard.press("Tab")
    page.wait_for_function("() => document.querySelector('[data-chart=reward]').dataset.steps === '51'")
    page.click("#whole")
    page.wait_for_function("() => Number(document.querySelector('[data-chart=reward]').dataset.last) > 19000")


def test_seeds_are_pooled_when_asked(root: Path, visit: Callable[..., Any]) -> None:
    for seed in (1, 2, 3):
        make_run(root / f"s{seed}", steps(4, reward=float(seed)), seed=seed)
    page = visit("/view?r=s1&r=s2&r=s3")
    _drawn(page)
    assert page.locator("[data-chart=reward] .legend li").count() == 3
    page.check("#pool")
    page.wait_for_function("() => document.querySelectorAll('[data-chart=reward] .legend li').length === 1")
    assert "× 3" in page.locator("[data-chart=reward] .legend .name").inner_text()
    page.click("#tab-compare")
    page.wait_for_selector("#part-compare table")
    assert "3 seeds" in page.locator("#part-compare").inner_text()


def _full(root: Path) -> None:
    run = make_run(root / HOSTILE.replace("/", "∕"), steps(4, kl=0.1, reward_min=0.0, reward_max=9.0), model=HOSTILE, **{HOSTILE: 1})
    logs.append(run / "metrics.jsonl", [{"step": 5, "reward": 1.0, HOSTILE: 2.0}])
    tell(run, {"kind": "warning", "step": 2, "level": "warning", "message": HOSTILE, "page": HOSTILE})
    answer(run, {"step": 1, "prompt": HOSTILE, "text": HOSTILE, "raw": "raw", "reward": 1.0, "why": HOSTILE})
    answer(run, {"step": 3, "prompt": HOSTILE, "text": HOSTILE, "reward": 0.5, "error": HOSTILE})
    row = KeptRollout(
        4, HOSTILE, "p", 0, HOSTILE, HOSTILE, (7, 8), (HOSTILE, "b"), 3, (True, False), {"policy": (-1.0, -2.0)}, rule=HOSTILE
    )
    Rollouts(run, 1, 1 << 20).write("alarm", 4, [row])


def _every_part(page: Any) -> Iterator[str]:
    _drawn(page)
    for part in ("curves", "samples", "tokens", "events", "about"):
        page.click(f"#tab-{part}")
        page.wait_for_function("p => document.getElementById(`part-${p}`).textContent.trim().length > 20", arg=part)
        yield part


def test_hostile_texts_stay_texts(root: Path, visit: Callable[..., Any]) -> None:
    _full(root)
    page = visit("/")
    page.fill("#q", "onerror")
    page.keyboard.press("Enter")
    page.wait_for_selector("#found .hits")
    page.click("#runs tbody th a")
    for _ in _every_part(page):
        assert page.locator("main img, main script").count() == 0
    page.click("#tab-samples")
    assert HOSTILE in page.locator(".answer .text").first.inner_text()
    assert page.title() != "owned"


@pytest.mark.parametrize(
    ("scheme", "width", "lang"),
    [("light", 1280, "en-GB"), ("dark", 1280, "zh-CN"), ("light", 360, "zh-CN"), ("dark", 360, "en-GB")],
)
def test_for_everybody(root: Path, visit: Callable[..., Any], scheme: str, width: int, lang: str) -> None:
    """Contrast, names of controls, no sideways scrolling: in both schemes, both languages, on a phone."""
    sys.path.insert(0, str(ROOT / "tests" / "web" / "browser"))
    try:
        from test_access import CONTRAST, NAMES
    finally:
        sys.path.pop(0)
    _full(root)
    page = visit("/", color_scheme=scheme, viewport={"width": width, "height": 800}, locale=lang)
    page.wait_for_selector("#runs tbody tr")
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click("#runs tbody th a")
    for part in _every_part(page):
        assert page.evaluate(CONTRAST) == [], part
        named = page.evaluate(NAMES)
        assert (named["unnamed"], named["twice"], named["dangling"]) == ([], [], []), part
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), part
        shown = page.locator("main").inner_text()
        assert not re.search(r"\b(curves|samples|tokens|told|event|about|chart|kind|signal)\.[a-z_]+\b", shown), part
        assert ("词元" in page.locator(".tabs").inner_text()) == lang.startswith("zh")


def test_tabs_by_keyboard(root: Path, visit: Callable[..., Any]) -> None:
    _full(root)
    page = visit("/view?r=" + HOSTILE.replace("/", "∕"))
    _drawn(page)
    page.focus("#tab-curves")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#part-samples:not([hidden]) .answer")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.id") == "tab-curves"


def test_tokens_tell_what_is_known_of_them(root: Path, visit: Callable[..., Any]) -> None:
    run = make_run(root / "r", steps(1))
    row = KeptRollout(
        4, "worst", "p", 0, "Q", "ab", (7, 8), ("a", "b"), 3, (True, True),
        {"policy": (-1.0, -2.0), "reference": (-1.5, -5.0)}, {"advantages": (0.5, -0.5)}, -2.0, {"len": 1.0},
    )  # fmt: skip
    Rollouts(run, 1, 1 << 20).write("train", 4, [row])
    page = visit("/view?r=r#tokens")
    page.wait_for_selector(".token")
    page.click(".token >> nth=1")
    said = page.locator("#part-tokens .said").inner_text()
    assert "KL to the reference 3" in said
    assert "advantage −0.5" in said
    page.select_option("#part-tokens select >> nth=2", "advantages")
    assert page.locator(".token").first.evaluate("e => getComputedStyle(e).backgroundColor") != "rgba(0, 0, 0, 0)"


def test_checklists_of_a_run(root: Path, visit: Callable[..., Any]) -> None:
    """All three lists, with the state of each item and by what; in Chinese; looked at again; on a narrow page."""
    run = make_run(root / "r", steps(40, grad_norm=lambda i: 50.0 if i == 7 else 1.0), optim={"lr": 1.0}, note=HOSTILE)
    page = visit("/view?r=r#checks")
    page.wait_for_selector("[data-item=gradient-steady]")
    assert page.locator("#part-checks [data-when] h3").all_inner_texts() == ["Before the training", "During it", "After it"]
    row = page.locator("[data-item=gradient-steady]")
    assert (row.get_attribute("data-state"), "failed" in row.inner_text(), "50" in row.inner_text()) == ("fail", True, True)
    assert "open: for a person" in page.locator("[data-item=people-judge]").inner_text()
    assert "failed" in page.locator("[data-when=during] .counts").inner_text()
    logs.cut_end(run / "metrics.jsonl", lambda row: True)
    logs.append(run / "metrics.jsonl", steps(40, grad_norm=1.0))
    page.locator("#part-checks .tools button").click()
    page.wait_for_selector("[data-item=gradient-steady][data-state=pass]")
    page = visit("/view?r=r&lang=zh#checks", viewport={"width": 390, "height": 800})
    page.wait_for_selector("[data-item=gradient-steady]")
    assert "由人判断" in page.locator("[data-item=people-judge]").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
