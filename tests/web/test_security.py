"""What keeps others out: sessions, headers, names, sizes, rates."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from web_tools import ADDRESS, FIRST, PASSWORD, PIXEL, with_picture

from keel.feedback import schema
from keel.site.guard import Guard
from keel.web.settings import Limits, WebSettings

PAGES = ("/login", "/annotate", "/api", "/manage", "/manage/shop", "/static/site/site.css", "/nothing", "/api/me", "/api/openapi.json")


@pytest.mark.parametrize("path", PAGES)
def test_every_response_has_the_headers(make_site: Any, path: str) -> None:
    site = make_site(1)
    for client in (site.client(), site.person("boss", "manager").client):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "style-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert ("no-store" in headers.get("cache-control", "")) != path.startswith("/static/")


@pytest.mark.parametrize("path", ["/login", "/annotate", "/api", "/manage/shop"])
def test_no_page_has_script_or_style_inside(make_site: Any, path: str) -> None:
    page = make_site(1).person("boss", "manager").get(path).text.lower()
    assert "<style" not in page
    assert " style=" not in page
    assert " onclick=" not in page
    for tag in page.split("<script")[1:]:
        attributes, _, body = tag.partition(">")
        assert "src=" in attributes or 'type="application/json"' in attributes
        assert "src=" not in attributes or body.startswith("</script>")


@pytest.mark.parametrize("path", ["/api/logout", "/api/judgements", "/api/judgements/batch", "/api/undo", "/api/manage/access"])
def test_changes_need_the_sessions_header(make_site: Any, path: str) -> None:
    site = make_site(1)
    boss, other = site.person("boss", "manager"), site.person()
    body = {"event_id": "ev-00000001", "handle": "x", "answer": FIRST}
    for wrong in ("", "page", other.csrf, boss.csrf[:-1] + "é"):
        answer = boss.client.post(path, json=body, headers={"x-csrf": wrong.encode("latin-1")} if wrong else {})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "csrf")
    assert boss.get("/api/me").status_code == 200  # still signed in


def test_every_change_in_the_schema_needs_the_header(make_site: Any) -> None:
    site = make_site(1)
    boss = site.person("boss", "manager")
    paths = boss.get("/api/openapi.json").json()["paths"]
    changes = [(p, m) for p, calls in paths.items() for m in calls if m != "get"]
    assert len(changes) > 8
    for path, method in changes:
        body = {"name": "x", "password": "y" * 9, "paused": True, "role": "manager", "disabled": True, "annotator": "ann", "why": "x"}
        fields = _fields(boss.get("/api/openapi.json").json(), paths[path][method])
        answer = boss.client.request(method, path.format(campaign="shop", token="t"), json={k: v for k, v in body.items() if k in fields})
        assert answer.status_code in (400, 403), path
        assert answer.status_code == 400 or answer.json()["error"]["code"] == "csrf", path
    assert [n["what"] for n in site.store.audit()] == []


def _fields(openapi: dict[str, Any], call: dict[str, Any]) -> set[str]:
    reference = call.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
    return set(openapi["components"]["schemas"][reference.rpartition("/")[2]]["properties"]) if reference else set()


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(make_site: Any) -> None:
    site = make_site(1)
    site.store.add_account("ann", PASSWORD)
    said = {"name": "ann", "password": PASSWORD}
    cookie = site.client().post("/api/login", json=said, headers={"x-csrf": "page"}).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie
    https = make_site(1, public_url="https://study.example.org")
    https.store.add_account("ann", PASSWORD)
    cookie = https.client().post("/api/login", json=said, headers={"x-csrf": "page"}).headers["set-cookie"]
    assert cookie.startswith("__Host-keel=")
    assert "Secure" in cookie


def test_the_database_holds_no_secret(make_site: Any) -> None:
    site = make_site(1)
    ann = site.person()
    token = ann.client.cookies["keel-8766"]
    invitation = site.store.invite("annotator", "shop", 1, 100.0, "test")
    kept = site.store.read(lambda c: str([c.execute(select(t)).all() for t in (schema.session, schema.invitation, schema.account)]))
    assert token not in kept
    assert invitation not in kept
    assert PASSWORD not in kept
    assert ann.csrf not in kept


def test_a_session_that_ended_opens_nothing(make_site: Any) -> None:
    site = make_site(1)
    ann, boss = site.person(), site.person("boss", "manager")
    again = site.enter("ann")
    token = ann.client.cookies["keel-8766"]
    assert ann.post("/api/logout", {}).status_code == 200
    assert ann.client.cookies.get("keel-8766") is None
    ann.client.cookies.set("keel-8766", token)  # kept by somebody who had it
    assert ann.get("/api/me").status_code == 401
    assert again.get("/api/me").status_code == 200  # only that one
    boss.post("/api/manage/access", {"name": "ann", "disabled": True})
    assert again.get("/api/me").status_code == 401  # at once
    said = {"name": "ann", "password": PASSWORD}
    assert site.client().post("/api/login", json=said, headers={"x-csrf": "page"}).status_code == 401
    boss.post("/api/manage/access", {"name": "ann", "disabled": False})
    assert again.get("/api/me").status_code == 401
    assert site.enter("ann").get("/api/me").status_code == 200


def test_a_session_ended_elsewhere_lives_a_few_seconds_at_most(make_site: Any) -> None:
    site = make_site(1)
    ann = site.person()
    assert ann.get("/api/me").status_code == 200
    site.store.revoke_sessions("ann")  # another process: this one has not heard of it
    site.now[0] += 5.1
    assert ann.get("/api/me").status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8766", "localhost.evil.example", "10.0.0.7", "", "[::1"]
)
def test_other_names_are_refused_on_loopback(make_site: Any, host: str) -> None:
    client = make_site(1).client()
    assert client.get("/login", headers={"host": host}).status_code == 421
    assert client.get("/login", headers={"host": "localhost:8766"}).status_code == 200
    assert client.get("/login", headers={"host": "[::1]:8766"}).status_code == 200


def test_away_from_loopback_addresses_are_answered_and_strange_names_are_not(make_site: Any) -> None:
    client = make_site(1, host="0.0.0.0", public_url="https://study.example.org").client()
    for host, status in (("10.0.0.7:8766", 200), ("study.example.org", 200), ("evil.example", 421)):
        assert client.get("/login", headers={"host": host}).status_code == status


def test_another_site_cannot_post(make_site: Any) -> None:
    site = make_site(1)
    ann = site.person()
    event = ann.event(ann.items()["items"][0]["handle"])
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9999", "http://[::1", "http://[x]:1", "//"):
        assert ann.post("/api/judgements", event, origin=origin).json()["error"]["code"] == "origin"
    assert ann.post("/api/judgements", event, origin=ADDRESS).status_code == 200


def test_bodies_have_a_limit_whatever_they_say_of_their_size(make_site: Any) -> None:
    site = make_site(1, limits=Limits(body_bytes=1000))
    ann = site.person()
    assert ann.client.post("/api/judgements", content=b"x" * 1001).status_code == 413
    chunks = (b"x" * 100 for _ in range(11))  # chunked: no Content-Length
    assert ann.client.post("/api/judgements", content=chunks).status_code == 413
    assert ann.client.post("/api/judgements", content=b"x" * 1000, headers={"x-csrf": ann.csrf}).status_code == 400


def test_a_body_that_never_ends_is_given_up() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nobody may see it")

    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()  # for ever
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    guard = Guard(app, WebSettings(Path("."), limits=Limits(body_seconds=0.01)))
    scope = {"type": "http", "method": "POST", "path": "/api/judgements", "headers": [(b"host", b"127.0.0.1")]}
    asyncio.run(guard(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 408


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b'{"event_id": 3}', b"\xff\xfe", b'{"a": ' * 2000])
def test_nonsense_is_refused_with_a_message(make_site: Any, body: bytes) -> None:
    ann = make_site(1).person()
    answer = ann.client.post("/api/judgements", content=body, headers={"x-csrf": ann.csrf, "content-type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"code", "message", "todo"}


def test_wrong_passwords_run_out_by_account_and_address(make_site: Any) -> None:
    site = make_site(1, limits=Limits(failures=(3, 0.1)))
    site.store.add_account("ann", PASSWORD)
    site.store.add_account("bob", PASSWORD)

    def tried(name: str, password: str, times: int = 1) -> list[int]:
        client = site.client()
        return [
            client.post("/api/login", json={"name": name, "password": password}, headers={"x-csrf": "page"}).status_code
            for _ in range(times)
        ]

    assert tried("ann", "wrong word", 5) == [401, 401, 401, 429, 429]
    assert tried("ann", PASSWORD) == [429]  # the right one too
    assert tried("bob", PASSWORD) == [200]
    site.now[0] += 11.0
    assert tried("ann", PASSWORD) == [200]
    assert tried("nobody", "wrong word") == [401]


def test_wrong_passwords_of_one_address_for_many_accounts_run_out(make_site: Any) -> None:
    site = make_site(1, limits=Limits(failures_address=(4, 0.1)))
    client = site.client()
    found = [client.post("/api/login", json={"name": f"n{i}", "password": "x" * 9}, headers={"x-csrf": "p"}).status_code for i in range(6)]
    assert found == [401] * 4 + [429] * 2


def test_an_account_has_so_many_calls(make_site: Any) -> None:
    site = make_site(1, limits=Limits(calls=(5, 1.0)))
    ann, bob = site.person(), site.person("bob")
    assert [ann.get("/api/me").status_code for _ in range(7)] == [200] * 5 + [429] * 2
    assert ann.get("/api/me").headers["retry-after"] == "1"
    assert bob.get("/api/me").status_code == 200
    site.now[0] += 1.0
    assert [ann.get("/api/me").status_code for _ in range(2)] == [200, 429]


def test_strangers_have_so_many_calls(make_site: Any) -> None:
    client = make_site(1, limits=Limits(knocks=(3, 1.0))).client()
    assert [client.get("/api/me").status_code for _ in range(4)] == [401, 401, 401, 429]
    assert client.get("/i/guess").status_code == 429


def test_only_managers_manage(make_site: Any) -> None:
    site = make_site(1)
    paths = [p for p in site.client().get("/api/openapi.json").json()["paths"] if p.startswith("/api/manage")]
    assert len(paths) > 7
    for role in ("annotator", "adjudicator"):
        one = site.person(role, role)
        for path in paths:
            path = path.format(campaign="shop")
            for answer in (one.get(path), one.post(path, {})):
                assert answer.status_code in (403, 405), (role, path, answer.text)
        for path in ("/manage", "/manage/shop"):
            assert one.get(path, follow_redirects=False).status_code == 303
    for path in paths:
        assert site.client().get(path.format(campaign="shop")).status_code in (401, 405)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/site/..%5c..%5capp.py",
        "/static//etc/passwd",
        "/static/site/",
        "/media/../../etc/passwd",
        "/media/..%2f..%2fetc%2fpasswd",
        "/media/" + "0" * 64,
        "/media/" + "A" * 64,
        "/media/" + "0" * 63,
    ],
)
def test_no_path_leads_out(make_site: Any, path: str) -> None:
    answer = make_site(1).person().get(path)
    assert answer.status_code == 404
    assert "import" not in answer.text
    assert "root:" not in answer.text


def test_pictures_are_for_those_who_are_signed_in(make_site: Any, tmp_path: Path) -> None:
    site = make_site(1)
    digest = site.app.state.kit.media.add(PIXEL, "here")
    answer = site.person().get(f"/media/{digest}")
    assert (answer.content, answer.headers["content-type"]) == (PIXEL, "image/png")
    assert "immutable" in answer.headers["cache-control"]
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert site.client().get(f"/media/{digest}").status_code == 401


def test_a_row_of_the_database_alone_serves_no_file(make_site: Any, tmp_path: Path) -> None:
    site, digest = make_site(1), "a" * 64
    (tmp_path / "page.html").write_text("<script>")
    site.store.add_media(digest, str(tmp_path / "page.html"), "text/html")
    assert site.person().get(f"/media/{digest}").status_code == 404


def test_no_response_tells_where_pictures_lie(make_site: Any, tmp_path: Path) -> None:
    (tmp_path / "hidden-folder").mkdir()
    picture = tmp_path / "hidden-folder" / "dot.png"
    picture.write_bytes(PIXEL)
    (tmp_path / "hidden-folder" / "secret.txt").write_text("root:x:0")
    tasks = [with_picture(0, str(picture)), with_picture(1, str(tmp_path / "hidden-folder" / "secret.txt")), with_picture(2, "/etc/passwd")]
    ann = make_site(tasks).person()
    answer = ann.get("/api/campaigns/shop/items")
    assert "hidden-folder" not in answer.text
    assert "passwd" not in answer.text
    urls = [item["prompt"][0]["content"][0]["url"] for item in answer.json()["items"]]
    assert [bool(u) for u in urls] == [True, False, False]  # what is no picture is not shown
    assert ann.get(urls[0]).content == PIXEL


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "\"'><svg onload=x>",
    "javascript:alert(1)",
    "a\u202eb",
    "名前" * 40,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_accounts(make_site: Any, name: str) -> None:
    site = make_site(1)
    token = site.store.invite("annotator", "shop", 5, 1000.0, "test")
    client = site.client()
    answer = client.post(f"/api/invitations/{token}", json={"name": name, "password": PASSWORD}, headers={"x-csrf": "page"})
    if not name.isprintable():
        assert answer.status_code == 400
        return
    assert answer.status_code == 200
    boss = site.person("boss", "manager")
    assert name in [p["name"] for p in boss.get("/api/manage/shop/people").json()["people"]]
    for page in (client.get("/annotate"), client.get(f"/i/{token}"), boss.get("/manage/shop")):
        assert page.status_code == 200
        assert name not in page.text or name.isalnum() or "<" not in name


@pytest.mark.parametrize("name", HOSTILE[:3])
def test_hostile_names_of_campaigns_stay_text(make_site: Any, name: str) -> None:
    site = make_site(1)
    page = site.person("boss", "manager").get(f"/manage/{name.replace('/', '%2F')}")
    assert page.status_code == 404
    assert name not in page.text


def test_what_managers_do_is_in_the_audit(make_site: Any) -> None:
    site = make_site(1)
    ann, boss = site.person(), site.person("boss", "manager")
    ann.vote(ann.items()["items"][0]["handle"])
    boss.post("/api/manage/shop/pause", {"paused": True})
    boss.post("/api/manage/shop/invitations", {"role": "annotator", "uses": 3})
    boss.post("/api/manage/access", {"name": "ann", "disabled": True})
    boss.post("/api/manage/shop/retract", {"annotator": "ann", "why": "sold"})
    boss.get("/api/manage/shop/export")
    found = boss.get("/api/manage-audit").json()["audit"]
    assert [(n["who"], n["what"]) for n in found] == [("boss", w) for w in ("exported", "retracted", "closed account", "invited", "paused")]
    assert found[1]["detail"] == {"annotator": "ann", "why": "sold", "tasks": 1}
