"""The command as people start it: a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from web_tools import PASSWORD, make_task

from keel.core.errors import ConfigError
from keel.feedback.db import Store
from keel.feedback.rows import task_row
from keel.site.listening import listen
from keel.web.settings import WebSettings

ROOT = Path(__file__).resolve().parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def test_it_loads_no_torch() -> None:
    """Neither the server nor the process of its measures: a server that starts in a second and needs no gigabytes."""
    heavy = "('torch', 'transformers', 'numba', 'scipy', 'pandas', 'matplotlib', 'datasets')"
    code = f"import sys, keel.cli, keel.verbs.annotate.run, keel.web.measure; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENV, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def _start(*args: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
    command = [sys.executable, "-m", "keel.cli", "annotate", "--port", "0", "--no-browser", *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENV)
    links: dict[str, str] = {}
    assert process.stdout is not None
    for line in process.stdout:
        words = line.split()
        if "http://" in line and len(words) > 1:
            links[words[0]] = words[-1]
        if line.startswith(("Ctrl-C", "error")):
            break
    return process, links


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_from_the_links_to_a_vote_and_ctrl_c(tmp_path: Path, end: signal.Signals) -> None:
    import httpx2

    tasks = tmp_path / "shop.jsonl"
    tasks.write_text("".join(json.dumps(task_row(make_task(i))) + "\n" for i in range(3)))
    store = str(tmp_path / "a.db")
    process, links = _start("--store", store, "--tasks", str(tasks), "wanted=1", "--json")
    try:
        base, token = links["sign"].removesuffix("/login"), links["annotators"].rsplit("/", 1)[1]
        with httpx2.Client(base_url=base, headers={"x-csrf": "page"}) as client:
            assert client.get(links["manager"].removeprefix(base)).status_code == 200
            csrf = client.post(f"/api/invitations/{token}", json={"name": "ann", "password": PASSWORD}).json()["csrf"]
            item = client.get("/api/campaigns/shop/items").json()["items"][0]
            said = {"event_id": "event-0001", "handle": item["handle"], "answer": {"type": "choice", "chosen": "tie"}}
            assert client.post("/api/judgements", json=said, headers={"x-csrf": csrf}).json()["stored"]
            process.send_signal(end)
            rest = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 0, rest
    assert json.loads(rest.splitlines()[-1])["votes"] == 1
    assert "Traceback" not in rest
    with Store(store) as opened:
        assert [j.event_id for j in opened.judgements("shop")] == ["event-0001"]


def test_mistakes_end_with_a_message_and_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "keel.cli", "annotate", "--port", "0", "--no-browser", "--store", str(tmp_path / "a.db")]
    for more, said in (([], "--tasks FILE"), (["wanted=0"], "wanted"), (["--campaign", "c"], "'c' is not in the store")):
        found = subprocess.run([*command, *more], capture_output=True, text=True, env=ENV, timeout=60, check=False)
        assert found.returncode == 2
        assert said in found.stderr
        assert "Traceback" not in found.stderr


def test_a_port_that_is_taken_is_said() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="--port"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_links_begin_where_people_come_from() -> None:
    media = Path("media")
    assert WebSettings(media, port=80).base == "http://127.0.0.1:80"
    assert WebSettings(media, host="0.0.0.0", port=80).base == "http://127.0.0.1:80"
    assert WebSettings(media, host="::1", port=80).base == "http://[::1]:80"
    assert WebSettings(media, public_url="https://x.example.org/").base == "https://x.example.org"
    for wrong in ("x.example.org", "ftp://x", "https://x/path", "https://"):
        with pytest.raises(ConfigError, match="public-url"):
            WebSettings(media, public_url=wrong)
