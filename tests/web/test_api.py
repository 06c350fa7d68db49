"""What annotators' pages ask and send."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from web_tools import FIRST, PASSWORD, Person, make_task

from keel.types import Choice, Ranks, Scores, Spans


def test_an_item_and_its_answer(make_site: Any) -> None:
    site = make_site(3)
    ann = site.person()
    given = ann.items()
    assert [x["kind"] for x in given["items"]] == ["pairwise"] * 3
    assert given["state"] == "passed"
    assert given["protocol"]["min_read_ms"] == 0
    assert sum(d["weight"] for d in given["protocol"]["dimensions"]) == 100
    item = given["items"][0]
    assert set(item) == {"handle", "kind", "prompt", "answers", "tools", "until", "guideline"}
    answer = ann.vote(item["handle"], strength=0.5, reason="so", active_ms=1234)
    assert (answer.status_code, answer.json()) == (200, {"stored": True, "late": False})
    (stored,) = site.store.judgements("shop")
    task = site.store.task(stored.task_id)
    place = {"first": 0, "second": 1}[stored.answer.chosen]
    assert task.candidates[place].text == item["answers"][0]["text"]  # the one that stood first on the screen
    assert (stored.answer.strength, stored.reason, stored.active_ms, stored.by) == (0.5, "so", 1234, "ann")


def test_the_same_event_again_and_another_under_its_name(make_site: Any) -> None:
    site = make_site(2)
    ann = site.person()
    item = ann.items()["items"][0]
    event = ann.event(item["handle"])
    answers = [ann.post("/api/judgements", event) for _ in range(3)]
    assert [a.status_code for a in answers] == [200] * 3
    assert len({a.text for a in answers}) == 1
    other = ann.post("/api/judgements", {**event, "answer": {"type": "choice", "chosen": "tie"}})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    again = ann.vote(item["handle"])  # a second answer to one item
    assert again.status_code == 409
    assert len(site.store.judgements("shop")) == 1


def test_a_batch_goes_one_by_one(make_site: Any) -> None:
    site = make_site(3)
    ann = site.person()
    handles = [x["handle"] for x in ann.items()["items"]]
    sent = [
        ann.event(handles[0]),
        ann.event("not-mine"),
        ann.event(handles[1], {"type": "choice", "chosen": "better"}),
        ann.event(handles[2]),
    ]
    results = ann.post("/api/judgements/batch", {"judgements": sent}).json()["results"]
    assert [(r["event_id"], r["status"], r["stored"]) for r in results] == [
        (sent[0]["event_id"], 200, True),
        (sent[1]["event_id"], 403, False),
        (sent[2]["event_id"], 400, False),
        (sent[3]["event_id"], 200, True),
    ]
    assert "answer.chosen" in results[2]["error"]["message"]
    assert len(site.store.judgements("shop")) == 2


def test_training_teaches_in_places_of_the_screen(make_site: Any) -> None:
    training = [make_task(100 + i, expected=Choice("first"), explanation={"en": "see", "zh": "看"}) for i in range(6)]
    site = make_site(2, training=training)
    ann = site.person()
    seen = set()
    given = ann.items(10)
    assert (given["state"], len(given["items"])) == ("training", 6)
    for item in given["items"]:
        told = ann.vote(item["handle"]).json()["feedback"]
        best = {"first": 0, "second": 1}[told["expected"]["chosen"]]
        assert item["answers"][best]["text"].startswith("Answer a")
        assert told["right"] == (best == 0)
        assert told["explanation"] == {"en": "see", "zh": "看"}
        seen.add(best)
    assert seen == {0, 1}  # both orders were shown
    assert ann.items()["state"] == "passed"
    assert "feedback" not in ann.vote(ann.items()["items"][0]["handle"]).json()


def test_undo_is_a_new_event(make_site: Any) -> None:
    site = make_site(2)
    ann, bob = site.person(), site.person("bob")
    item = ann.items()["items"][0]
    first = ann.event(item["handle"], reason="because")
    ann.post("/api/judgements", first)
    asked = {"event_id": "ev-correction", "replaces": first["event_id"]}
    shown = ann.post("/api/undo", asked).json()
    assert (shown["item"]["handle"], shown["answer"]["chosen"], shown["reason"]) == (item["handle"], "first", "because")
    assert shown["item"]["answers"] == item["answers"]
    assert len(site.store.judgements("shop")) == 1
    assert bob.post("/api/undo", asked).status_code == 403
    assert ann.post("/api/undo", {**asked, "replaces": "ev-unknown"}).status_code == 403
    correction = {**asked, "handle": item["handle"], "answer": {"type": "choice", "chosen": "tie"}}
    assert ann.post("/api/undo", correction).json() == {"stored": True, "late": False}
    assert ann.post("/api/judgements", correction).json() == {"stored": True, "late": False}
    old, new = site.store.judgements("shop")
    assert (old.answer.chosen in ("first", "second"), new.answer.chosen, new.replaces) == (True, "tie", first["event_id"])
    assert site.store.progress("shop")["votes"] == 1


def test_an_answer_is_taken_back_with_nothing_in_its_place(make_site: Any) -> None:
    site = make_site(2)
    ann, bob = site.person(), site.person("bob")
    item = ann.items()["items"][0]
    first = ann.event(item["handle"])
    ann.post("/api/judgements", first)
    back = {"event_id": "ev-taken-back", "replaces": first["event_id"], "take_back": True}
    told = ann.post("/api/undo", back).json()
    assert (told["stored"], told["replaces"], told["item"]["handle"]) == (True, "ev-taken-back", item["handle"])
    assert ann.post("/api/undo", back).json()["stored"], "sent twice, stored once"
    assert (len(site.store.judgements("shop")), site.store.progress("shop")["votes"]) == (2, 0)
    assert item["handle"] in [i["handle"] for i in ann.items()["items"]]
    assert bob.post("/api/undo", back).status_code == 403
    again = {**ann.event(item["handle"]), "event_id": "ev-once-again", "replaces": "ev-taken-back"}
    assert ann.post("/api/judgements", again).json()["stored"]
    assert site.store.progress("shop")["votes"] == 1
    ann.post("/api/undo", {"event_id": "ev-back-twice", "replaces": "ev-once-again", "take_back": True})
    anew = {**ann.event(item["handle"]), "event_id": "ev-answered-anew"}  # a page that was loaded anew does not know the event
    for _ in range(2):
        assert ann.post("/api/judgements", anew).json() == {"stored": True, "late": False}
    assert site.store.judgements("shop")[-1].replaces == "ev-back-twice"
    assert ann.post("/api/judgements", {**anew, "event_id": "ev-another"}).status_code == 409, "an answer stands"
    assert ann.post("/api/undo", {**back, "answer": {"type": "choice", "chosen": "tie"}}).status_code == 400


def test_answers_to_training_items_cannot_be_taken_back(make_site: Any) -> None:
    site = make_site(1, training=[make_task(9, expected=Choice("first"))])
    ann = site.person()
    event = ann.event(ann.items()["items"][0]["handle"])
    ann.post("/api/judgements", event)
    assert ann.post("/api/undo", {"event_id": "ev-correction", "replaces": event["event_id"]}).status_code == 403


def _all_kinds() -> list[tuple[str, int, dict[str, Any], type]]:
    scores = {"accuracy": 5, "completeness": 4, "relevance": 3, "fluency": 1}
    spans = [{"candidate": 1, "start": 0, "end": 6, "kind": "object", "note": "n"}]
    return [
        ("ranking", 4, {"type": "ranks", "buckets": [[2], [0, 3], [1]]}, Ranks),
        ("rating", 1, {"type": "scores", "candidate": 0, "scores": scores}, Scores),
        ("spans", 2, {"type": "spans", "spans": spans}, Spans),
    ]


@pytest.mark.parametrize(("kind", "count", "answer", "type_"), _all_kinds())
def test_other_kinds_of_answers(make_site: Any, kind: str, count: int, answer: dict[str, Any], type_: type) -> None:
    site = make_site([make_task(i, kind, count) for i in range(4)])
    ann = site.person()
    for item in ann.items()["items"]:
        assert ann.vote(item["handle"], answer).status_code == 200
    for j, item in zip(site.store.judgements("shop"), range(4), strict=True):
        assert isinstance(j.answer, type_), item
        order = j.display_order
        if isinstance(j.answer, Ranks):
            assert j.answer.buckets == ((order[2],), (order[0], order[3]), (order[1],))
        if isinstance(j.answer, Spans):
            assert j.answer.spans[0].candidate == order[1]


@pytest.mark.parametrize(
    ("kind", "answer", "said"),
    [
        ("rating", {"type": "scores", "candidate": 0, "scores": {"accuracy": 6, "completeness": 4, "relevance": 3, "fluency": 1}}, "1..5"),
        ("rating", {"type": "scores", "candidate": 0, "scores": {"accuracy": 5}}, "each of"),
        ("spans", {"type": "spans", "spans": [{"candidate": 0, "start": 0, "end": 3, "kind": "mood"}]}, "must be one of"),
        ("spans", {"type": "spans", "spans": [{"candidate": 0, "start": 0, "end": 999, "kind": "object"}]}, "must lie within"),
        ("ranking", {"type": "ranks", "buckets": [[0, 1]]}, "each of the 3 places"),
        ("ranking", {"type": "choice", "chosen": "first"}, "must be Ranks"),
    ],
)
def test_impossible_answers(make_site: Any, kind: str, answer: dict[str, Any], said: str) -> None:
    site = make_site([make_task(0, kind, 3 if kind == "ranking" else 1)])
    ann = site.person()
    refused = ann.vote(ann.items()["items"][0]["handle"], answer)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "field")
    assert said in refused.json()["error"]["message"]
    assert not site.store.judgements("shop")


def test_a_reason_that_must_be_there(make_site: Any) -> None:
    site = make_site(1, page={"reason": "required"})
    ann = site.person()
    handle = ann.items()["items"][0]["handle"]
    assert ann.vote(handle).status_code == 400
    assert ann.vote(handle, reason="it is true").status_code == 200


def test_strength_belongs_to_choices_and_says_one_thing(make_site: Any) -> None:
    site = make_site(1)
    ann = site.person()
    handle = ann.items()["items"][0]["handle"]
    assert ann.vote(handle, {**FIRST, "strength": 0.2}, strength=0.3).status_code == 400
    assert ann.vote(handle, {**FIRST, "strength": 0.2}).status_code == 200
    assert site.store.judgements("shop")[0].answer.strength == 0.2


def test_nobody_works_where_they_were_not_invited(make_site: Any) -> None:
    site = make_site(1)
    site.store.add_account("eve", PASSWORD)
    refused = site.enter("eve").get("/api/campaigns/shop/items")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_given")
    ann = site.person()
    assert ann.get("/api/campaigns/other/items").status_code == 403


def test_the_end_has_a_code_of_the_persons_own(make_site: Any) -> None:
    site = make_site(1, wanted=2)
    codes = []
    for name in ("ann", "bob"):
        one = site.person(name)
        assert "end" not in one.items()
        one.vote(one.items()["items"][0]["handle"])
        end = one.items()["end"]
        assert end["why"] == "done"
        assert end == one.items()["end"]
        codes.append(end["code"])
    assert len(set(codes)) == 2


@pytest.mark.parametrize("n", [0, -1])
def test_asking_for_no_items_is_no_end(make_site: Any, n: int) -> None:
    """With none asked for, none are given: that does not say that nothing is left."""
    site = make_site(2, page={"completion_code": "C0DE"})
    for who, path in ((site.person(), "items"), (site.person("judge", "adjudicator"), "adjudications")):
        refused = who.get(f"/api/campaigns/shop/{path}?n={n}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "field")
        assert "C0DE" not in refused.text


def test_the_code_is_for_answers_that_stand(make_site: Any) -> None:
    """Nobody gets it who did no work, who only was taught, or whose work was taken back."""
    taught = [make_task(9, expected=Choice("first"))]
    site = make_site(1, wanted=1, training=taught, page={"completion_code": "C0DE", "completion_url": "https://example.org"})
    ann, bob = site.person(), site.person("bob")
    for person in (ann, bob):
        person.vote(person.items()["items"][0]["handle"])
    ann.vote(ann.items()["items"][0]["handle"])
    assert ann.items()["end"] == {"why": "done", "code": "C0DE", "url": "https://example.org"}
    assert bob.items()["end"] == {"why": "done", "code": "", "url": ""}  # ann was faster
    site.store.retract(annotator="ann")
    assert ann.items()["end"]["code"] == ""
    bob.vote(bob.items()["items"][0]["handle"])
    assert bob.items()["end"]["code"] == "C0DE"
    (event,) = (j.event_id for j in site.store.judgements("shop", annotator="bob") if j.purpose == "work")
    site.store.retract(event_id=event)
    assert bob.items()["end"]["code"] == ""


def test_who_fails_gets_no_code_and_no_work(make_site: Any) -> None:
    known = [make_task(50 + i, expected=Choice("first")) for i in range(3)]
    site = make_site(2, qualification=known, page={"completion_code": "C0DE"})
    ann = site.person()
    for item in ann.items()["items"]:
        wrong = "second" if item["answers"][0]["text"].startswith("Answer a") else "first"
        ann.vote(item["handle"], {"type": "choice", "chosen": wrong})
    given = ann.items()
    assert (given["state"], given["items"], given["end"]["why"], given["end"]["code"]) == ("failed", [], "failed", "")


def test_a_paused_campaign_gives_nothing_and_ends_nothing(make_site: Any) -> None:
    site = make_site(2)
    ann = site.person()
    handle = ann.items(1)["items"][0]["handle"]
    site.store.update_campaign("shop", paused=True)
    given = ann.items()
    assert (given["items"], given["paused"], "end" in given) == ([], True, False)
    assert ann.vote(handle).status_code == 200


def test_disputed_items_go_to_adjudicators(make_site: Any) -> None:
    site = make_site(1, disagreement=0.3)
    for name, side in (("ann", "Answer a"), ("bob", "Answer b")):
        one = site.person(name)
        item = one.items()["items"][0]
        one.vote(item["handle"], {"type": "choice", "chosen": "first" if item["answers"][0]["text"].startswith(side) else "second"})
    assert site.person("carl").get("/api/campaigns/shop/adjudications").status_code == 403
    judge = site.person("judge", "adjudicator")
    (item,) = judge.get("/api/campaigns/shop/adjudications").json()["items"]
    assert judge.vote(item["handle"]).status_code == 200
    assert judge.get("/api/campaigns/shop/adjudications").json()["items"] == []
    assert site.store.judgements("shop")[-1].purpose == "adjudication"


def test_late_votes_are_kept_and_told(make_site: Any) -> None:
    now = [1.7e9]
    site = make_site(1, clock=lambda: now[0], lease_seconds=60.0)
    ann = site.person()
    handle = ann.items()["items"][0]["handle"]
    now[0] += 61
    assert ann.vote(handle).json() == {"stored": True, "late": True}


def test_a_lease_ends_and_the_item_goes_to_another_person(make_site: Any) -> None:
    """Who comes late is kept and told so; nobody counts twice, and there are never more votes than wanted."""
    now = [1.7e9]
    site = make_site(1, wanted=1, clock=lambda: now[0], lease_seconds=60.0)
    ann, bob = site.person(), site.person("bob")
    (mine,) = ann.items()["items"]
    assert bob.items()["items"] == []
    now[0] += 61.0
    (his,) = bob.items()["items"]
    assert his["prompt"] == mine["prompt"]
    assert bob.vote(his["handle"]).json() == {"stored": True, "late": False}
    assert ann.vote(mine["handle"]).json() == {"stored": True, "late": True}
    assert site.store.progress("shop")["votes"] == 1
    assert len(site.store.judgements("shop")) == 2


def test_people_at_once_get_each_item_as_often_as_wanted(make_site: Any) -> None:
    """Twelve items, each wanted from two of five people, who work at the same time and send everything twice."""
    site = make_site(12, wanted=2)
    people = [site.person(f"p{i}") for i in range(5)]
    trouble: list[str] = []

    def work(person: Person) -> None:
        for _ in range(100):
            given = person.get("/api/campaigns/shop/items?n=2")
            if given.status_code != 200 or not given.json()["items"]:
                trouble.extend([given.text] if given.status_code != 200 else [])
                return
            for item in given.json()["items"]:
                event = person.event(item["handle"])
                answers = [person.post("/api/judgements", event) for _ in range(2)]
                trouble.extend(a.text for a in answers if a.status_code != 200)

    threads = [threading.Thread(target=work, args=(person,)) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trouble == []
    votes = site.store.judgements("shop")
    assert set(Counter((v.task_id, v.by) for v in votes).values()) == {1}
    assert Counter(v.task_id for v in votes) == dict.fromkeys(site.store.task_ids("shop"), 2)
    assert site.store.progress("shop")["done"] == 12


def test_the_guideline_by_its_version(make_site: Any) -> None:
    site = make_site(1)
    site.store.add_guideline("g-1", "# Read", {"accuracy": 40.0})
    ann: Person = site.person()
    assert ann.get("/api/guidelines/g-1").json() == {"version": "g-1", "text": "# Read", "weights": {"accuracy": 40.0}}
    assert ann.get("/api/guidelines/g-2").status_code == 404


def test_the_api_as_a_page_and_for_programs(make_site: Any) -> None:
    client = make_site(1).client()
    page, schema = client.get("/api"), client.get("/api/openapi.json").json()
    assert page.status_code == 200
    assert {"/api/judgements", "/api/undo", "/api/me", "/api/campaigns/{campaign}/items"} <= set(schema["paths"])
    assert all(path in page.text for path in schema["paths"])
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert "https://" not in page.text
