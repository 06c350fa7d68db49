"""From the key press to the next item on the screen: a real browser before a real server, with and without a slow network.

    python -m labs.bench.annotate_page [--items 40] [--pace 0.6] [--latency 0 150]

Items have pictures, fetched and decoded ahead. The page itself measures: from the time stamp of the key's event to the frame after the one
that holds the next item (`performance.measure`, "keel-next-item"). ``--pace`` is how long a person looks at an item before answering.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from keel.feedback import members
from keel.feedback.campaign_settings import CampaignSettings
from keel.feedback.db import Campaign, Store
from keel.types import Candidate, ImagePart, Message, Prompt, Task, TextPart

_SERVER = """
import sys
from pathlib import Path
from keel.feedback.db import Store
from keel.site.listening import listen
from keel.web.server import serve
from keel.web.settings import WebSettings
listening = listen("127.0.0.1", 0)
port = listening.getsockname()[1]
print(port, flush=True)
with Store(sys.argv[1]) as store:
    serve(store, WebSettings(media=Path(sys.argv[2]), port=port), listening)
"""
_WORDS = (
    "the",
    "policy",
    "returns",
    "a",
    "jacket",
    "within",
    "thirty",
    "days",
    "when",
    "its",
    "label",
    "is",
    "still",
    "there",
    "nobody",
    "wore",
)


def tasks(count: int, folder: Path) -> list[Task]:
    """Pairs of answers of about 120 words about pictures of 640 x 480, no two alike."""
    made: list[Task] = []
    for i in range(count):
        rng = random.Random(i)
        path = folder / f"{i}.png"
        Image.frombytes("RGB", (64, 48), rng.randbytes(64 * 48 * 3)).resize((640, 480)).save(path)
        said = [" ".join(rng.choices(_WORDS, k=120)) + f"\n\n- point {k}\n- **more**" for k in range(2)]
        prompt = Prompt(f"p{i}", messages=(Message("user", (ImagePart(str(path)), TextPart(f"What is in picture {i}?"))),))
        made.append(Task(f"t{i}", prompt, tuple(Candidate(f"{i}-{k}", text) for k, text in enumerate(said)), "pairwise", "pairwise-v1"))
    return made


@contextmanager
def served(count: int, ahead: int) -> Iterator[tuple[str, str, Store]]:
    """(address, session's token, store) of a server in a process of its own, with one annotator."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/annotations.db"
        with Store(url) as store:
            store.add_campaign(Campaign("bench", 1, "pairwise", "pairwise-v1", settings=CampaignSettings(page={"ahead": ahead})))
            store.add_tasks("bench", tasks(count, Path(folder)))
            store.add_account("ann", "a long password")
            store.write(lambda c: members.member_state(c, "ann", "bench")).result()
            token = store.sign_in("ann", "a long password") or ""
            command = [sys.executable, "-c", _SERVER, url, f"{folder}/media"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            try:
                port = (process.stdout.readline() if process.stdout else "").strip()
                if not port:
                    raise RuntimeError("the server did not start")
                yield f"http://127.0.0.1:{port}", token, store
            finally:
                process.terminate()
                process.wait(20)


def measure(page: Any, items: int, pace: float) -> list[float]:
    """Milliseconds of each step from an item to the next."""
    ready = "h => document.body.dataset.gate === 'open' && (document.querySelector('.item')?.dataset.handle ?? h) !== h"
    handle = ""
    for n in range(items):
        page.wait_for_function(ready, arg=handle)
        handle = page.locator(".item").get_attribute("data-handle") or ""
        page.wait_for_timeout(pace * 1000)
        page.keyboard.press("1234567"[n % 7])
    page.wait_for_function("n => performance.getEntriesByName('keel-next-item').length >= n", arg=items - 1)
    return page.evaluate("() => performance.getEntriesByName('keel-next-item').map((e) => e.duration)")


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that a share ``q`` of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(q * 1000) * len(ordered) // 1000) - 1))]


def run(latency: float, items: int, pace: float, ahead: int) -> dict[str, Any]:
    """One run with so many milliseconds added to every call of the network."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no chromium on this machine: apt-get install chromium")
    with served(items, ahead) as (address, token, store), sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.add_cookies([{"name": f"keel-{address.rsplit(':', 1)[1]}", "value": token, "url": address}])
        page = context.new_page()
        slow = {"offline": False, "latency": latency, "downloadThroughput": -1, "uploadThroughput": -1}
        context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
        page.goto(address + "/annotate")
        page.wait_for_selector(".item")
        first = page.evaluate("() => performance.now()")
        steps = measure(page, items, pace)
        page.wait_for_selector(".net[data-net=net_saved]")
        stored = len(store.judgements("bench"))
        browser.close()
    figures = {f"p{round(q * 100)}_ms": round(quantile(steps, q), 1) for q in (0.5, 0.95)}
    return {
        "latency_ms": latency,
        "steps": len(steps),
        **figures,
        "max_ms": round(max(steps), 1),
        "first_item_ms": round(first),
        "stored": stored,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line of JSON for every latency."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--pace", type=float, default=0.6, help="seconds between an item and its answer")
    parser.add_argument("--ahead", type=int, default=6, help="items kept ready")
    parser.add_argument("--latency", type=float, nargs="+", default=[0.0, 150.0], help="milliseconds added to every call")
    given = parser.parse_args(arguments)
    for latency in given.latency:
        print(json.dumps(run(latency, given.items, given.pace, given.ahead) | {"machine": platform.machine()}), flush=True)


if __name__ == "__main__":
    main()
