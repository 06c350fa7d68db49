"""The canary: who goes there, what makes it go back, and that nobody loses a request over it."""

from __future__ import annotations

import asyncio
import json
import os
import time

import pytest
from fakes import FakeEngine, chat, client_of, finish, front_of, until

from keel.core.errors import ConfigError
from keel.serve.policy.canary import Canary, Ended, share_of
from keel.serve.policy.config import CanaryConfig
from keel.serve.policy.filters import RuleConfig
from keel.serve.policy.frames import About


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def canary_of(clock: Clock | None = None, guards: dict | None = None, **settings) -> Canary:
    return Canary(CanaryConfig(model="new", guards=guards or {}, **settings), clock or Clock())  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5])
def test_the_share_is_right_to_one_percent_over_ten_thousand_keys_and_sticks(share: float) -> None:
    canary, wider = canary_of(share=share), canary_of(share=min(1.0, 2 * share))
    keys = [f"user-{i}" for i in range(10_000)]
    arms = [canary.arm_of(key) for key in keys]
    assert abs(arms.count("canary") / 10_000 - share) <= 0.01
    assert arms == [canary_of(share=share).arm_of(key) for key in keys], "a restart changes nobody's arm"
    assert all(wider.arm_of(key) == "canary" for key, arm in zip(keys, arms) if arm == "canary"), "a larger share only adds keys"
    assert any(canary_of(share=share, salt="other").arm_of(key) != arm for key, arm in zip(keys, arms))


def test_shadows_are_drawn_from_all_keys() -> None:
    canary = canary_of(share=0.5, shadow=0.5)
    both = [(canary.arm_of(str(i)), canary.shadowed(str(i))) for i in range(10_000)]
    share = sum(s for arm, s in both if arm == "stable") / sum(arm == "stable" for arm, _ in both)
    assert abs(share - 0.5) < 0.03, "among the stable arm's keys too"


OK = Ended(ok=True, per_token_s=0.01)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Ended(ok=False), "failed"),
        (Ended(ok=True, filtered=True, per_token_s=0.01), "filtered"),
        (Ended(ok=True, per_token_s=0.05), "a token takes"),
    ],
)
def test_guards_roll_back_when_there_is_enough_to_see(bad: Ended, said: str) -> None:
    canary = canary_of(guards={"least": 10})
    for _ in range(20):
        canary.ended("stable", OK)
    for i in range(10):
        assert canary.judge() == ""
        canary.ended("canary", bad if i % 2 or "token" in said else OK)
    assert said in canary.judge()
    assert all(canary.arm_of(str(i)) == "stable" for i in range(1000))


def test_a_canary_like_the_stable_arm_stays() -> None:
    canary = canary_of(guards={"least": 10})
    for i in range(200):
        for arm in ("stable", "canary"):
            canary.ended(arm, OK if i % 10 else Ended(ok=False))  # type: ignore[arg-type]
            canary.windows[arm].thumb(str(i), i % 3 > 0)  # type: ignore[index]
        assert canary.judge() == ""


def test_thumbs_down_roll_back() -> None:
    canary = canary_of(guards={"least": 10})
    for i in range(10):
        canary.windows["stable"].thumb(str(i), True)
        canary.windows["canary"].thumb(str(i), False)
    assert "thumbs down" in canary.judge()


def test_no_metrics_is_a_rollback() -> None:
    clock = Clock()
    silent = canary_of(clock, guards={"silence_s": 10})
    silent.sent()
    clock.now += 9
    assert silent.judge() == ""
    silent.heard()
    clock.now += 9
    assert silent.judge() == "", "a long answer is under way"
    silent.ended("canary", OK)
    silent.left()
    clock.now += 100
    assert silent.judge() == "", "nothing was asked, so nothing is missing"
    silent.sent()
    silent.sent()
    silent.left()
    clock.now += 11
    assert "no metrics" in silent.judge()
    dead = canary_of(clock, guards={"silence_s": 10})
    assert dead.judge(alive=False) == ""
    clock.now += 11
    assert "gone" in dead.judge(alive=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"answer": "better"}', ""),
        ('{"answer": "cannot_tell", "more": 500}', ""),
        ('{"verdict": "cannot tell yet"}', ""),
        ('{"answer": "not_better"}', "not better"),
        ('{"answer": "worse"}', "worse"),
        ("{}", "no metrics"),
        ("", "no metrics"),
        (None, "no metrics"),
    ],
)
def test_the_verdict_decides(tmp_path, text: str | None, reason: str) -> None:
    path = tmp_path / "verdict.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    canary = Canary(CanaryConfig(model="new", verdict=str(path)), time.time)
    assert reason in canary.judge()
    assert bool(canary.reason) == bool(reason)
    if not reason:
        os.utime(path, (0, 0))
        assert "old" in canary.judge()


def test_a_rollback_is_remembered_until_somebody_decides_otherwise(tmp_path) -> None:
    state = str(tmp_path / "canary.json")
    canary_of(state=state).roll_back("it was bad")
    assert canary_of(state=state).reason == "it was bad"
    assert Canary(CanaryConfig(model="newer", state=state)).active, "another model has its own chance"
    (tmp_path / "canary.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="might be forgotten"):
        canary_of(state=state)


def user_of(arm: str, canary: dict) -> str:
    share, salt = canary["share"], "canary"
    return next(u for u in (f"u{i}" for i in range(1000)) if (share_of(u, salt) < share) == (arm == "canary"))


CANARY = {"model": "new", "share": 0.5, "guards": {"least": 5}}


def test_users_keep_their_arm_and_every_request_of_a_bad_canary_is_answered() -> None:
    async def run() -> None:
        stable, new = FakeEngine(), FakeEngine(words=("New", " words"), about=About("new", "t"))
        front = front_of(stable, new, canary=CANARY)
        theirs, mine = user_of("canary", CANARY), user_of("stable", CANARY)
        async with client_of(front) as client:

            async def say(user: str) -> str:
                answer = await client.post("/v1/chat/completions", json=chat(user=user))
                assert answer.status_code == 200
                return answer.json()["choices"][0]["message"]["content"]

            assert [await say(theirs), await say(mine), await say(theirs)] == ["New words", "All is well.", "New words"]
            new.die_after = 1
            assert await say(theirs) == "New is well.", "the stable arm goes on behind what the canary said"
            for _ in range(12):
                assert await say(theirs) == "All is well.", "a canary that is gone costs nobody an answer"
            for _ in range(5):
                new.die_after, new.alive = 0, True
                assert await say(theirs) == "All is well."
            assert "failed" in front.router.canary.judge()  # type: ignore[union-attr]
            asked, new.alive = len(new.asked), True
            assert await say(theirs) == "All is well."
            assert len(new.asked) == asked

    finish(run())


def test_a_rollback_comes_within_seconds_of_the_verdict_and_is_seen(tmp_path) -> None:
    async def run() -> None:
        verdict = tmp_path / "verdict.json"
        verdict.write_text('{"answer": "cannot_tell"}', encoding="utf-8")
        front = front_of(FakeEngine(), FakeEngine(about=About("new", "t")), canary={**CANARY, "verdict": str(verdict)})
        ticking = asyncio.create_task(front.tick())
        assert "keel_canary_share 0.5" in front.scrape().decode()
        verdict.write_text('{"answer": "not_better"}', encoding="utf-8")
        told = time.time()
        canary = front.router.canary
        assert canary is not None
        await until(lambda: not canary.active)
        await ticking
        assert canary.rolled_back_at is not None
        assert canary.rolled_back_at - told < 5
        assert "keel_canary_share 0.0" in front.scrape().decode()
        assert "keel_rollbacks_total 1.0" in front.scrape().decode()
        assert front.state()["canary"]["reason"] == "the verdict is: not better"

    finish(run())


def test_a_canary_that_says_nothing_is_rolled_back_though_its_clients_leave() -> None:
    async def run() -> None:
        canary = {**CANARY, "guards": {"least": 5, "silence_s": 0.2}}
        front = front_of(FakeEngine(), FakeEngine(stuck=True, about=About("new", "t")), canary=canary, queue={"timeout_s": 0.4})
        ticking = asyncio.create_task(front.tick())
        async with client_of(front) as client:
            theirs = user_of("canary", CANARY)
            late = await client.post("/v1/chat/completions", json=chat(user=theirs))
            assert late.status_code == 504
            while front.router.canary.active:  # type: ignore[union-attr]
                await client.post("/v1/chat/completions", json=chat(user=theirs))
            answer = await client.post("/v1/chat/completions", json=chat(user=theirs))
            assert answer.json()["choices"][0]["message"]["content"] == "All is well."
        await ticking

    finish(run())


def test_shadows_answer_nobody_and_are_counted() -> None:
    async def run() -> None:
        new = FakeEngine(words=("New",), about=About("new", "t"))
        front = front_of(FakeEngine(), new, canary={"model": "new", "share": 0.0, "shadow": 1.0})
        async with client_of(front) as client:
            for _ in range(3):
                answer = await client.post("/v1/chat/completions", json=chat())
                assert answer.json()["choices"][0]["message"]["content"] == "All is well."
            await until(lambda: not front.router.shadows)
        assert len(new.asked) == 3
        assert 'keel_shadow_requests_total{status="ok"} 3.0' in front.scrape().decode()
        assert front.router.held == {"stable": 0, "canary": 0}

    finish(run())


def test_filtered_prompts_and_answers_are_named_and_counted() -> None:
    async def run() -> None:
        asked = RuleConfig(name="in", where="input", keywords=("secret",), message="No.")
        rules = (asked, RuleConfig(name="out", where="output", keywords=("well",)))
        engine = FakeEngine()
        front = front_of(engine, rules=rules)
        async with client_of(front) as client:
            stopped = (await client.post("/v1/chat/completions", json=chat("a SECRET"))).json()["choices"][0]
            assert (stopped["finish_reason"], stopped["message"]["content"], stopped["content_filter"]) == ("content_filter", "No.", "in")
            assert engine.asked == []
            cut = (await client.post("/v1/chat/completions", json=chat(logprobs=True))).json()["choices"][0]
            assert (cut["finish_reason"], cut["message"]["content"], cut["content_filter"]) == ("content_filter", "All is ", "out")
            assert cut["logprobs"]["content"] == [], "tokens would tell what the text does not"
            stream = (await client.post("/v1/chat/completions", json=chat(stream=True))).text
            assert "well" not in stream
            events = [json.loads(x[6:]) for x in stream.split("\n\n") if x.startswith("data: {")]
            assert events[-1]["choices"][0]["finish_reason"] == "content_filter"
        text = front.scrape().decode()
        assert 'keel_filter_hits_total{rule="in",where="input"} 1.0' in text
        assert 'keel_filter_hits_total{rule="out",where="output"} 2.0' in text

    finish(run())


def test_thumbs_make_the_outcomes_that_an_ab_test_reads(tmp_path) -> None:
    async def run() -> None:
        outcomes = tmp_path / "outcomes.jsonl"
        settings = {"canary": {**CANARY, "outcomes": str(outcomes)}, "feedback": {"store": "sqlite://"}}
        front = front_of(FakeEngine(), FakeEngine(about=About("new", "t")), **settings)
        async with client_of(front) as client:
            for arm, rating, consent in (("canary", "down", True), ("stable", "up", True), ("stable", "down", False)):
                answer = await client.post("/v1/chat/completions", json=chat(user=user_of(arm, CANARY)))
                said = {"id": answer.json()["id"], "rating": rating, "consent": {"store": consent}}
                assert (await client.post("/v1/feedback", json=said)).status_code == 200
        rows = [json.loads(line) for line in outcomes.read_text(encoding="utf-8").splitlines()]
        assert [(r["arm"], r["outcome"]) for r in rows] == [("treatment", 0), ("control", 1)]
        assert not any(user_of(arm, CANARY) in outcomes.read_text(encoding="utf-8") for arm in ("canary", "stable"))

    finish(run())
