"""What it costs to look at a long run in the dashboard: a run directory is made up, `keel dash` serves it, a browser opens it.

    python -m labs.bench.dash --steps 100000 --metrics 66

Of the server: processor seconds until it has answered what the first view asks, until the whole file is read, and its greatest memory.
``cold``: without the side file of columns. Of Chromium, where it is there: processor seconds of the page until its curves are drawn, and
the time until a step that is appended is seen.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from keel.runs import logs
from keel.runs.directory import COLUMNS
from labs.bench.record import make_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Served:
    """`keel dash` over a folder, in a process of its own (Linux: its costs are read from /proc)."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, "-m", "keel.cli", "dash", str(root), "--port", "0", "--no-browser"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        found = re.search(r"http://\S+", self.process.stdout.readline() if self.process.stdout else "")
        if found is None:
            raise RuntimeError("keel dash did not start")
        self.url = found[0].rstrip("/")

    def get(self, path: str, **values: Any) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}?{urlencode(values, doseq=True)}") as answer:
            return json.loads(answer.read()) if path.startswith("/api/") else answer.read()

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mb(self) -> float:
        kib = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(kib[1]) * 1024 / 1e6 if kib else float("nan")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def server_costs(root: Path) -> dict[str, float]:
    """Of the first view, and until everything is read."""
    served = Served(root)
    try:
        began = served.cpu_s()
        served.get("/view", r="long")
        view = served.get("/api/view", r="long")
        charts = [json.dumps(chart["metrics"]) for chart in view["charts"]]
        served.get("/api/curves", r="long", c=charts, px=400)
        first = served.cpu_s() - began
        while served.get("/api/view", r="long")["runs"][0]["read"] < 1:
            time.sleep(2.0)
        served.get("/api/curves", r="long", c=charts, px=400)
        costs = {"start_cpu_s": began, "first_view_cpu_s": first, "whole_cpu_s": served.cpu_s() - began, "peak_mb": served.peak_mb()}
        return {name: round(value, 2) for name, value in costs.items()}
    finally:
        served.close()


def page_costs(root: Path) -> dict[str, float]:
    """Of the page in Chromium, and how long a new step takes to be seen."""
    from playwright.sync_api import sync_playwright

    served = Served(root)
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            tools = page.context.new_cdp_session(page)
            tools.send("Performance.enable", {"timeDomain": "threadTicks"})
            page.goto(f"{served.url}/view?r=long")
            page.wait_for_selector("body[data-drawn=yes]")
            measured = {m["name"]: m["value"] for m in tools.send("Performance.getMetrics")["metrics"]}
            drawn = page.evaluate("performance.now()") / 1000
            paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
            page.wait_for_function("() => document.querySelector('#reading').hidden")
            page.wait_for_selector("#live[data-live=on]")
            last = served.get("/api/view", r="long")["runs"][0]["step"]
            page.evaluate("document.querySelector('[data-chart=reward]').scrollIntoView()")
            logs.append(root / "long" / "metrics.jsonl", [{"step": last + 1, "reward": 0.5}])
            written = time.monotonic()
            page.wait_for_function("s => Number(document.querySelector('[data-chart=reward]').dataset.last) === s", arg=last + 1)
            seen = time.monotonic() - written
            browser.close()
        costs = {"page_cpu_s": measured["TaskDuration"], "first_paint_s": paint, "curves_drawn_s": drawn, "new_step_seen_s": seen}
        return {name: round(value, 2) for name, value in costs.items()}
    finally:
        served.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--metrics", type=int, default=66)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        size = make_run(root / "long", args.steps, args.metrics)
        print(f"metrics.jsonl: {size / 1e6:.0f} MB")
        print("server:", json.dumps(server_costs(root)))
        if CHROMIUM is not None:
            print("page:", json.dumps(page_costs(root)))
        shutil.rmtree(root / "long" / COLUMNS)
        print("server, cold:", json.dumps(server_costs(root)))


if __name__ == "__main__":
    main()
