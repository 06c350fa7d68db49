"""`make gallery`: small runs, and pictures of the pages that come of them in docs/images/gallery_*.png. Needs chromium and the extra `dev`.

python docs/site/gallery.py WORK      # what the runs leave goes to WORK; what is there already is not run again
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
KEEL = [sys.executable, "-m", "keel.cli"]
WIDE, HIGH, COLOURS = 1100, 760, 64  # pixels of a picture; few colours keep it small


def make_runs(work: Path) -> None:
    """What there is to look at. A finished run only shows its summary, so a second call is quick."""
    _run(*KEEL, "rl", "recipes/tiny_grpo.yaml", f"run_dir={work / 'runs/grpo'}")
    _run(*KEEL, "prefer", "recipes/tiny_dpo.yaml", f"run_dir={work / 'runs/dpo'}")
    _run(*KEEL, "eval", "recipes/tiny_eval.yaml", f"run_dir={work / 'runs/eval'}")
    judged = ["--labels", "recipes/tiny/pairs.jsonl", "--judge", "scripted", "gate.least_pairs=40", "--html", str(work / "judge.html")]
    _run(*KEEL, "judge", "report", *judged, "--json", str(work / "judge.json"))
    _run(sys.executable, "examples/ab/make_data.py", str(work / "ab"))
    _run(*KEEL, "ab", "check", "recipes/ab/online.yaml", f"data={work / 'ab/online.jsonl'}", "--html", str(work / "ab.html"))
    if not (work / "annotate/tasks.jsonl").is_file():
        _run(sys.executable, "examples/annotate/demo.py", str(work / "annotate"))


def _run(*command: str) -> None:
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def served(wanted: str, *command: str) -> Iterator[str]:
    """The address that a server prints on the line that begins with ``wanted``; the server ends afterwards."""
    process = subprocess.Popen([*KEEL, *command], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith(wanted))
        found = re.search(r"http://\S+", line)
        assert found is not None, line
        yield found[0]
    finally:
        process.terminate()
        process.wait(20)


def shoot(page: Page, name: str, high: int = HIGH) -> None:
    """The top of the page as a picture of few colours."""
    file = IMAGES / f"gallery_{name}.png"
    page.set_viewport_size({"width": WIDE, "height": high})
    page.wait_for_timeout(800)  # curves are drawn after the page is there
    page.screenshot(path=file)
    with Image.open(file) as shot:
        shot.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)


def take(browser: Any, work: Path) -> None:
    """All pictures."""
    page = browser.new_page(locale="en-GB", color_scheme="light")
    for name, file in (
        ("report", work / "runs/grpo/report.html"),
        ("evaluation", work / "runs/eval/report.html"),
        ("evaluation_zh", work / "runs/eval/report.zh.html"),
        ("judge", work / "judge.html"),
        ("verdict", work / "ab.html"),
    ):
        page.goto(file.as_uri())
        shoot(page, name)
    with served("runs in", "dash", str(work / "runs"), "--port", "0", "--no-browser") as url:
        page.goto(f"{url.rstrip('/')}/view?r=grpo")
        shoot(page, "dash")
    store = work / "annotations.db"
    command = ["--store", str(store), "--tasks", str(work / "annotate/tasks.jsonl"), "--campaign", "demo", "--port", "0", "--no-browser"]
    with served("annotators", "annotate", *command, "page.min_read_ms=0") as url:
        person = browser.new_page(locale="en-GB", color_scheme="light")
        person.goto(url)
        person.locator("#name").fill(f"ann-{os.getpid()}")
        person.locator("#password").fill("a long enough password")
        person.locator("#join button[type=submit]").click()
        person.wait_for_url("**/annotate")
        person.locator(".choice").first.wait_for()
        shoot(person, "annotate")


def main(work: Path) -> None:
    """Run, serve, look."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no chromium on this machine: apt-get install chromium")
    work.mkdir(parents=True, exist_ok=True)
    make_runs(work)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        take(browser, work)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
