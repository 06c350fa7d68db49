"""What managers' pages ask and do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from web_tools import PASSWORD, Person, make_task

from keel.feedback.rows import annotator_from, judgement_from, task_from
from keel.types import Candidate, Choice, Prompt, Task
from keel.web.measure import measures, plain


def _study(site: Any, people: int = 3, per: int = 100) -> list[Person]:
    """Everybody takes the better answer, "Answer a", but the last, who takes the left one."""
    found = [site.person(f"p{i}") for i in range(people)]
    for i, one in enumerate(found):
        for item in one.items(20)["items"][:per]:
            a = "first" if item["answers"][0]["text"].startswith("Answer a") else "second"
            one.vote(item["handle"], {"type": "choice", "chosen": "first" if i == people - 1 else a}, active_ms=4000)
    return found


def test_the_measures_of_a_small_study(make_site: Any) -> None:
    site = make_site(12, wanted=3, gold=[make_task(90 + i, expected=Choice("first")) for i in range(4)], gold_share=0.3)
    _study(site)
    boss = site.person("boss", "manager")
    said = boss.get("/api/manage/shop").json()
    assert said["fresh"]
    counts, found = said["counts"], said["measures"]
    assert (counts["items"], counts["wanted"], counts["members"]) == (12, 3, {"passed": 3})
    judgements = site.store.judgements("shop")
    assert counts["events"] == found["votes"] == len(judgements)
    work = [j for j in judgements if j.purpose == "work"]
    assert counts["votes"] == len(work)
    by = {p["annotator"]: p for p in found["people"]}
    left = [j.answer.chosen == ("first" if j.display_order[0] == 0 else "second") for j in work if j.by == "p2"]
    assert by["p2"]["left"]["hits"] == by["p2"]["left"]["n"] == len(left) == sum(left)
    gold = [j for j in judgements if j.purpose == "gold" and j.by == "p0"]
    assert gold
    assert (by["p0"]["gold"]["hits"], by["p0"]["gold"]["n"]) == (len(gold), len(gold))
    assert by["p0"]["seconds"] == 4.0
    assert {r["name"] for r in found["agreement"]} == {"likeness", "raw", "fleiss", "alpha", "alpha_ordinal"}
    raw, likeness = (next(r for r in found["agreement"] if r["name"] == n) for n in ("raw", "likeness"))
    assert raw["value"] == pytest.approx(likeness["value"])
    assert raw["low"] <= raw["value"] <= raw["high"] <= 1.0
    assert found["forecast"]["missing"] == 12 * 3 - counts["votes"]
    assert sum(n for _, n in found["hours"]) == len(judgements)
    assert len(found["disputes"]) == len({j.task_id for j in work if j.by == "p2" and j.answer.chosen == "second"})


def test_measures_follow_new_votes_and_retractions(make_site: Any) -> None:
    site = make_site(3, wanted=2)
    ann, _ = _study(site, 2)
    boss = site.person("boss", "manager")
    assert boss.get("/api/manage/shop").json()["measures"]["votes"] == 6
    assert boss.post("/api/manage/shop/retract", {"annotator": "p0", "why": "sold account"}).json()["tasks"] == 3
    said = boss.get("/api/manage/shop").json()
    assert (said["counts"]["votes"], [p["annotator"] for p in said["measures"]["people"]]) == (3, ["p1"])
    assert ann.items()["items"] == []  # gets nothing more


def test_cycles_are_found(make_site: Any) -> None:
    prompt = Prompt("p", text="Which?")
    a, b, c = (Candidate(x, f"Answer {x}") for x in "abc")
    tasks = [Task(f"t{i}", prompt, pair, "pairwise", "pairwise-v1") for i, pair in enumerate([(a, b), (b, c), (c, a)])]
    site = make_site(tasks, wanted=1)
    ann = site.person()
    for item in ann.items()["items"]:
        texts = [x["text"][-1] for x in item["answers"]]
        better = {"ab": "a", "bc": "b", "ac": "c"}["".join(sorted(texts))]
        ann.vote(item["handle"], {"type": "choice", "chosen": "first" if texts[0] == better else "second"})
    (cycle,) = measures(site.store, "shop")["cycles"]
    assert sorted(cycle["texts"]) == ["Answer a", "Answer b", "Answer c"]


@pytest.mark.parametrize("place", [0, 1])
def test_names_of_models_are_masked_in_reports(make_site: Any, place: int) -> None:
    """On either side: a check that looks at one of them twice is a check of one."""
    texts = ["No.", "No."]
    texts[place] = "I am ChatGPT."
    task = Task("t", Prompt("p", text="Q?"), (Candidate("a", texts[0]), Candidate("b", texts[1])), "pairwise", "pairwise-v1")
    site = make_site([task])
    for name, chosen in (("ann", "tie"), ("bob", "both_bad")):
        one = site.person(name)
        one.vote(one.items()["items"][0]["handle"], {"type": "choice", "chosen": chosen})
    found = measures(site.store, "shop")
    assert found["not_blind"] == 2
    assert "ChatGPT" not in json.dumps(found)
    assert found["disputes"][0]["texts"][1 - place] == "No."
    assert found["disputes"][0]["texts"][place] != "No."


@pytest.mark.parametrize("kind", ["ranking", "rating", "spans"])
def test_other_kinds_are_measured_too(make_site: Any, kind: str) -> None:
    answers = {
        "ranking": {"type": "ranks", "buckets": [[0], [1, 2]]},
        "rating": {"type": "scores", "candidate": 0, "scores": dict.fromkeys(("accuracy", "completeness", "relevance", "fluency"), 3)},
        "spans": {"type": "spans", "spans": []},
    }
    site = make_site([make_task(i, kind, 3 if kind == "ranking" else 1) for i in range(3)])
    for name in ("ann", "bob"):
        one = site.person(name)
        for item in one.items()["items"]:
            assert one.vote(item["handle"], answers[kind]).status_code == 200
    (row,) = measures(site.store, "shop")["agreement"]
    assert (row["name"], row["n"]) == ("likeness", 3)
    assert kind == "ranking" or row["value"] == 1.0


def test_nan_is_null() -> None:
    assert plain({"a": float("nan"), "b": [float("inf"), 1.5], "c": ("x", None, True)}) == {
        "a": None,
        "b": [None, 1.5],
        "c": ["x", None, True],
    }


def test_pausing_and_going_on(make_site: Any) -> None:
    site = make_site(1)
    ann, boss = site.person(), site.person("boss", "manager")
    assert boss.post("/api/manage/shop/pause", {"paused": True}).json() == {"paused": True}
    assert ann.items()["items"] == []
    boss.post("/api/manage/shop/pause", {"paused": False})
    assert len(ann.items()["items"]) == 1


def test_links_let_so_many_in(make_site: Any) -> None:
    site = make_site(1)
    boss = site.person("boss", "manager")
    link = boss.post("/api/manage/shop/invitations", {"role": "annotator", "uses": 2, "days": 1}).json()["link"]
    token = link.rsplit("/", 1)[1]

    def join(name: str, password: str = PASSWORD) -> Any:
        return site.client().post(f"/api/invitations/{token}", json={"name": name, "password": password}, headers={"x-csrf": "page"})

    for _ in range(3):  # looking uses nothing
        assert site.client().get(f"/i/{token}").status_code == 200
    assert join("ann", "short").status_code == 400
    assert join("boss").status_code == 409
    assert join("ann").status_code == 200
    assert join("bob").status_code == 200
    assert join("carl").status_code == 400
    assert [a.name for a in site.store.accounts()] == ["ann", "bob", "boss"]
    assert site.enter("ann").get("/api/me").json()["campaigns"][0]["name"] == "shop"
    assert boss.post("/api/manage/shop/invitations", {"role": "king"}).status_code == 400


def test_a_link_that_is_over_or_unknown(make_site: Any) -> None:
    now = [1.7e9]
    site = make_site(1, clock=lambda: now[0])
    token = site.store.invite("annotator", "shop", 1, 60.0, "test")
    now[0] += 61.0
    for one in (token, "unknown", "../x"):
        assert site.client().get(f"/i/{one}").status_code == 404
        answer = site.client().post(f"/api/invitations/{one}", json={"name": "ann", "password": PASSWORD}, headers={"x-csrf": "page"})
        assert answer.status_code in (400, 404)
    assert site.store.accounts() == ()


def test_people_of_platforms_come_without_a_password_and_come_back(make_site: Any) -> None:
    site = make_site(1, page={"completion_code": "C1A2B3", "completion_url": "https://app.prolific.com/submissions/complete?cc=C1A2B3"})
    token = site.store.invite("annotator", "shop", 1, 1000.0, "test")
    came = {"PROLIFIC_PID": "5f3a9c", "STUDY_ID": "s1", "SESSION_ID": "x1"}
    page = site.client().get(f"/i/{token}", params=came)
    assert "prolific:5f3a9c" in page.text
    assert site.store.accounts() == ()
    client = site.client()
    answer = client.post(f"/api/invitations/{token}", json={"platform": came}, headers={"x-csrf": "page"})
    assert answer.json()["name"] == "prolific:5f3a9c"
    one = Person(client, "prolific", answer.json()["csrf"])
    one.vote(one.items()["items"][0]["handle"])
    assert one.items()["end"] == {"why": "done", "code": "C1A2B3", "url": "https://app.prolific.com/submissions/complete?cc=C1A2B3"}
    back = site.client().post(f"/api/invitations/{token}", json={"platform": came}, headers={"x-csrf": "page"})  # the one use is spent
    assert back.json()["name"] == "prolific:5f3a9c"
    assert len(site.store.accounts()) == 1
    assert site.store.audit()[-1]["detail"] == came
    other = site.client().post(f"/api/invitations/{token}", json={"platform": {"workerId": "A1B2C3"}}, headers={"x-csrf": "page"})
    assert other.status_code == 400
    said = {"name": "prolific:5f3a9c", "password": ""}
    assert site.client().post("/api/login", json=said, headers={"x-csrf": "page"}).status_code == 401
    site.store.change_account("prolific:5f3a9c", disabled=True)
    assert site.client().post(f"/api/invitations/{token}", json={"platform": came}, headers={"x-csrf": "page"}).status_code == 400


@pytest.mark.parametrize(
    "platform",
    [{"PROLIFIC_PID": "x"}, {"STUDY_ID": "s1"}, {"PROLIFIC_PID": "abcd", "workerId": "abcd"}, {"PROLIFIC_PID": "../../etc"}, {"evil": "x"}],
)
def test_odd_platform_links(make_site: Any, platform: dict[str, str]) -> None:
    site = make_site(1)
    token = site.store.invite("annotator", "shop", 1, 1000.0, "test")
    assert site.client().get(f"/i/{token}", params=platform).status_code == 404
    assert site.client().post(f"/api/invitations/{token}", json={"platform": platform}, headers={"x-csrf": "p"}).status_code == 400


def test_nobody_takes_a_platforms_name_and_no_platform_takes_an_account(make_site: Any) -> None:
    site = make_site(1)
    token = site.store.invite("annotator", "shop", 9, 1000.0, "test")
    for name in ("prolific:abcd", "Prolific:abcd", "mturk:abcd"):
        answer = site.client().post(f"/api/invitations/{token}", json={"name": name, "password": PASSWORD}, headers={"x-csrf": "p"})
        assert answer.status_code == 400
    site.store.add_account("prolific:abcd", PASSWORD)  # made by hand, with a password
    answer = site.client().post(f"/api/invitations/{token}", json={"platform": {"PROLIFIC_PID": "abcd"}}, headers={"x-csrf": "p"})
    assert answer.status_code == 400


def test_somebody_with_an_account_joins_another_campaign(make_site: Any) -> None:
    site = make_site(1)
    ann = site.person()
    from dataclasses import replace

    site.store.add_campaign(replace(site.store.campaign("shop"), name="second"))
    token = site.store.invite("annotator", "second", 1, 1000.0, "test")
    assert "ann" in ann.get(f"/i/{token}").text
    assert ann.post(f"/api/invitations/{token}", {}).status_code == 200
    assert [c["name"] for c in ann.get("/api/me").json()["campaigns"]] == ["second", "shop"]
    assert ann.get("/api/campaigns/second/items").status_code == 200


def test_exports_are_all_of_it_and_can_be_read(make_site: Any) -> None:
    site = make_site(7, wanted=2)
    _study(site, 2)
    boss = site.person("boss", "manager")
    answer = boss.get("/api/manage/shop/export?what=judgements")
    assert answer.headers["content-disposition"] == 'attachment; filename="shop-judgements.jsonl"'
    read = tuple(judgement_from(json.loads(line)) for line in answer.text.splitlines())
    assert read == site.store.judgements("shop")
    tasks = [task_from(json.loads(line)["task"]) for line in boss.get("/api/manage/shop/export?what=tasks").text.splitlines()]
    assert tasks == site.store.tasks([t.task_id for t in tasks])
    assert len(tasks) == 7
    people = [annotator_from(json.loads(line)) for line in boss.get("/api/manage/shop/export?what=annotators").text.splitlines()]
    assert [p.annotator_id for p in people] == ["p0", "p1"]
    assert boss.get("/api/manage/shop/export?what=passwords").status_code == 400


def test_an_export_in_parts_is_the_same(make_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(7, wanted=1)
    _study(site, 1)
    boss = site.person("boss", "manager")
    whole = [boss.get(f"/api/manage/shop/export?what={what}").text for what in ("judgements", "tasks")]
    monkeypatch.setattr("keel.web.manage._PART", 2)
    assert [boss.get(f"/api/manage/shop/export?what={what}").text for what in ("judgements", "tasks")] == whole


def test_everybody_with_state_and_code(make_site: Any) -> None:
    site = make_site(1)
    ann, boss = site.person(), site.person("boss", "manager")
    ann.vote(ann.items()["items"][0]["handle"])
    code = ann.items()["end"]["code"]
    people = boss.get("/api/manage/shop/people").json()["people"]
    assert people == [
        {"name": "ann", "role": "annotator", "disabled": False, "state": "passed", "code": code},
        {"name": "boss", "role": "manager", "disabled": False, "state": "", "code": ""},
    ]
    assert boss.post("/api/manage/access", {"name": "boss", "disabled": True}).status_code == 400
    assert boss.post("/api/manage/access", {"name": "nobody", "disabled": True}).status_code == 404
    assert boss.get("/api/manage/other").status_code == 404
