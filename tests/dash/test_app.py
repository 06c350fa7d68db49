"""Who is answered, what is refused, and that nothing is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dash_tools import answer, make_run, steps, tell

Client = Callable[..., Any]
CALLS = ("view", "curves", "events", "compare", "about", "prompts", "samples", "worst", "tokens", "search", "list")
TOKEN = "a-token-of-twenty-chars"


def test_wrong_names_are_refused_everywhere(root: Path, client: Client) -> None:
    make_run(root / "r", steps(2))
    (root.parent / "secret").mkdir()
    make_run(root.parent / "secret" / "run", steps(1))
    for name in ("../secret/run", "r/../r", "/etc", "R", "", "r\0", "下"):
        for call in CALLS[:-2]:
            found = client().get(f"/api/{call}", params={"r": name, "c": '["reward"]'})
            assert found.status_code == 404, (call, name)
            assert found.json()["error"]["message"]
    assert client().get("/view", params={"r": "none"}).status_code == 404
    assert client().get("/api/view").status_code == 400


@pytest.mark.parametrize(
    "values", [{"c": "x"}, {"c": "[]"}, {"c": "[1]"}, {"c": "[" * 9999}, {"low": "nan"}, {"low": "x"}, {"low": 5, "high": 2}, {}]
)
def test_calls_that_make_no_sense_are_told_so(root: Path, client: Client, values: dict[str, Any]) -> None:
    make_run(root / "r", steps(2))
    asked = {"c": '["reward"]', **values} if values else {}
    found = client().get("/api/curves", params={"r": "r", **asked})
    assert found.status_code == 400
    assert found.json()["error"]["message"]


def test_another_name_of_this_machine_is_refused(root: Path, client: Client) -> None:
    assert client().get("/", headers={"host": "evil.example:8767"}).status_code == 421
    assert client().get("/").status_code == 200


def test_pages_have_the_headers_of_safety_and_no_scripts_of_their_own(root: Path, client: Client) -> None:
    make_run(root / "<b>x", steps(1))
    page = client().get("/view", params={"r": "<b>x"})
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<b>x" not in page.text
    for tag in page.text.split("<script")[1:]:
        attributes, _, body = tag.partition(">")
        assert 'type="application/json"' in attributes or ("src=" in attributes and body.startswith("</script>"))


def test_nothing_but_looking(root: Path, client: Client) -> None:
    run = make_run(root / "r", steps(2))
    for method in ("post", "put", "patch", "delete"):
        assert getattr(client(), method)("/api/view?r=r").status_code == 405, run


def test_without_the_token_nothing_is_told(root: Path, client: Client) -> None:
    make_run(root / "named", steps(1))
    asking = client(host="0.0.0.0", token=TOKEN)
    for path in ("/", "/view?r=named", "/api/list", "/api/stream", "/api/search?q=named", "/nothing"):
        for headers in ({}, {"authorization": f"Bearer {TOKEN}x"}, {"cookie": f"keel-dash-8767={TOKEN}"}, {"accept": "text/html"}):
            found = asking.get(path, headers=headers)
            assert found.status_code == 401
            assert "named" not in found.text
    assert asking.get(f"/api/list?token={TOKEN}x").status_code == 401
    assert asking.get("/api/list", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_link_leaves_a_cookie_and_goes_on_without_the_token(root: Path, client: Client) -> None:
    make_run(root / "r", steps(1))
    asking = client(host="0.0.0.0", token=TOKEN)
    found = asking.get("/view", params={"token": TOKEN, "r": "r", "lang": "zh"})
    assert (found.status_code, found.headers["location"]) == (303, "/view?r=r&lang=zh")
    cookie = found.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert asking.get("/view?r=r").status_code == 200


def test_looking_writes_nothing(root: Path, client: Client) -> None:
    run = make_run(root / "r", steps(3000), summary={})
    tell(run, {"kind": "warning", "step": 1, "level": "warning"})
    answer(run, {"step": 1, "prompt": "p", "text": "t", "reward": 1.0})

    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size if p.is_file() else 0) for p in sorted(root.rglob("*"))}

    before = state()
    asking = client()
    for call in CALLS:
        assert asking.get(f"/api/{call}", params={"r": "r", "c": '["reward"]', "q": "t"}).status_code == 200, call
    assert state() == before


def test_json_is_valid_whatever_a_run_wrote(root: Path, client: Client) -> None:
    run = make_run(
        root / "r",
        [{"step": 1, "reward": "NaN", "x": "\ud800"}, {"step": "odd", "reward": True}, {"reward": 1e400}],
        summary={"reward": "NaN"},
    )
    answer(run, {"step": None, "prompt": 5, "text": ["a"], "reward": "Infinity"}, {"step": 1, "prompt": "\ud83d", "reward": {}})
    tell(
        run, {"kind": "warning", "step": "x", "message": 7, "level": None}, {"kind": 5}, {"kind": "emergency", "step": True, "back_to": "a"}
    )

    def refuse(name: str) -> float:
        raise AssertionError(name)

    for call in CALLS:
        found = client().get(f"/api/{call}", params={"r": "r", "c": '["reward"]', "q": "a"})
        assert found.status_code == 200, call
        json.loads(found.content, parse_constant=refuse)


def test_both_languages_have_the_same_words() -> None:
    from keel.dash.app import HERE, catalogue

    en, zh = catalogue("en"), catalogue("zh")
    assert set(en) == set(zh)
    import re

    for key, text in en.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", zh[key])), key
    said = "".join(p.read_text(encoding="utf-8") for p in [*(HERE / "static" / "dash").glob("*.js"), *(HERE / "templates").glob("*.html")])
    for key in re.findall(r'say\("([^"]+)"|t\["([a-z_.]+)"\]', said):
        assert next(filter(None, key)) in en or next(filter(None, key)).endswith("."), key


def test_every_kind_of_event_and_chart_has_words() -> None:
    from keel.dash import charts
    from keel.dash.app import catalogue
    from keel.dash.events import KINDS

    words = catalogue("en")
    assert all(f"event.{kind}" in words for kind in KINDS)
    assert all(f"chart.{chart.key}" in words for chart in (*charts.MAIN, *charts.FANS))


def test_the_server_loads_no_torch_and_little_else() -> None:
    heavy = ("torch", "transformers", "fastapi", "sqlalchemy", "matplotlib", "pydantic")
    code = f"import sys, keel.cli, keel.dash.server; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "[]"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path, capsys: Any) -> None:
    from keel.cli import main

    assert main(["dash", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_short_token_is_refused(root: Path, monkeypatch: Any) -> None:
    from keel.core.errors import UserError
    from keel.dash.server import run_dash

    monkeypatch.setenv("KEEL_DASH_TOKEN", "short")
    with pytest.raises(UserError, match="5 characters"):
        run_dash(str(root), host="0.0.0.0", port=0, browser=False)
