"""No annotator's page learns what would turn a judgement: others' votes, models, purposes, expected answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from web_tools import make_task

from keel.types import Candidate, Choice, Prompt, Task
from keel.web.blind import masked, names_itself

SECRETS = ("secret", "purpose", '"gold"', "repeat", "expected", "task_id", "origin", "source", "another-persons-reason", "display_order")


def test_no_byte_of_it_is_in_any_response(make_site: Any) -> None:
    gold = [make_task(200 + i, expected=Choice("first")) for i in range(8)]
    site = make_site(30, gold=gold, gold_share=0.3, repeat_share=0.2, wanted=3, disagreement=0.2)
    bob, ann = site.person("bob"), site.person("ann")
    seen: list[str] = []
    for person in (bob, ann):
        for _ in range(60):
            given = person.get("/api/campaigns/shop/items?n=3")
            handles = [x["handle"] for x in given.json()["items"]]
            seen.append(given.text)
            if not handles:
                break
            for handle in handles:
                event = person.event(handle, reason="another-persons-reason" if person is bob else "mine")
                seen += [person.post("/api/judgements", event).text, person.post("/api/judgements", event).text]
    undo = {"event_id": "ev-correction", "replaces": event["event_id"]}
    seen += [
        ann.post("/api/undo", undo).text,
        ann.get("/api/me").text,
        ann.get("/annotate").text,
        ann.get("/api/campaigns/shop/items").text,
    ]
    purposes = {j.purpose for j in site.store.judgements("shop")}
    assert purposes == {"work", "gold", "repeat"}  # all of them were handed out
    for secret in SECRETS:
        assert not [text for text in seen if secret in text.lower()], secret
    assert not [text for text in seen if "bob" in text]  # Bob's own name is not told back to him either, but by /api/me


def test_known_items_look_like_work(make_site: Any) -> None:
    gold = [make_task(200 + i, expected=Choice("first")) for i in range(20)]
    site = make_site(40, gold=gold, gold_share=0.4, wanted=1)
    ann = site.person()
    by: dict[str, set[str]] = {}
    shapes: dict[str, set[str]] = {}
    for _ in range(20):
        for item in ann.items(3)["items"]:
            answer = ann.vote(item["handle"])
            purpose = site.store.judgements("shop")[-1].purpose
            by.setdefault(purpose, set()).add(json.dumps({k: type(v).__name__ for k, v in item.items()}, sort_keys=True))
            shapes.setdefault(purpose, set()).add(f"{answer.text} {sorted(answer.headers)} {len(item['handle'])}")
    assert set(by) == {"work", "gold"}
    assert by["work"] == by["gold"]
    assert shapes["work"] == shapes["gold"]


def test_an_adjudicator_sees_no_votes(make_site: Any) -> None:
    site = make_site(1, disagreement=0.3)
    for name, side in (("ann", "Answer a"), ("bob", "Answer b")):
        one = site.person(name)
        item = one.items()["items"][0]
        said = "first" if item["answers"][0]["text"].startswith(side) else "second"
        one.vote(item["handle"], {"type": "choice", "chosen": said}, reason="another-persons-reason")
    text = site.person("judge", "adjudicator").get("/api/campaigns/shop/adjudications").text
    assert '"handle"' in text
    for secret in (*SECRETS, "ann", "bob", "chosen"):
        assert secret not in text.lower().replace("annot", ""), secret


NAMED = [
    "As an AI developed by OpenAI, I cannot do that.",
    "As a large language model trained by Google, I have no feelings.",
    "I'm Claude, made by Anthropic.",
    "I am ChatGPT, a helpful assistant.",
    "My name is Qwen.",
    "Hello! I am a language model called Vicuna.",
    "I was created by the team at Mistral AI.",
    "我是通义千问，由阿里云开发的语言模型。",
    "我是由OpenAI开发的人工智能助手。",
    "作为ChatGPT，我无法回答。",
    "我叫文心一言。",
]
NOT_NAMED = [
    "The tent was made by hand in Norway.",
    "Claude Monet painted it in 1872.",
    "As an AI, I cannot smell the flowers.",
    "Google says that the shop opens at nine.",
    "Meta is a Greek word.",
    "I am a llama farmer's son and fond of falcons.",
    "谷歌今天发布了新手机。",
    "我是一名学生，在百度上查过。",
    "",
]


@pytest.mark.parametrize("text", NAMED)
def test_answers_that_name_their_model_are_found(text: str) -> None:
    found = names_itself(text)
    assert found
    assert found not in masked(text)


@pytest.mark.parametrize("text", NOT_NAMED)
def test_answers_that_do_not_are_left_alone(text: str) -> None:
    assert names_itself(text) == ""
    assert masked(text) == text


@pytest.mark.parametrize("place", [0, 1])
def test_votes_on_such_answers_are_marked(make_site: Any, place: int) -> None:
    texts = ["A plain answer.", "A plain one, too."]
    texts[place] = NAMED[0]
    named = Task("t", Prompt("p", text="Q?"), (Candidate("a", texts[0]), Candidate("b", texts[1])), "pairwise", "pairwise-v1")
    site = make_site([named, make_task(1)])
    ann = site.person()
    for item in ann.items()["items"]:
        assert ann.vote(item["handle"]).status_code == 200
    assert {j.task_id: j.meta.get("blind") for j in site.store.judgements("shop")} == {"t": False, "secret-t1": None}
