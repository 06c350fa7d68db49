"""Failures of conversations: found, grouped, shown with all turns, sent to people whole, and back as pairs that train."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the extra feedback is not installed")

from keel.cli import main
from keel.evaluate.compare import Answer
from keel.evaluate.config import EvaluateConfig
from keel.feedback.questions import answer_words
from keel.feedback.texts import asked_row
from keel.runs.logs import json_line
from keel.types import ImagePart, Message, Prompt, SamplingParams, TextPart
from keel.verbs.cases.config import CasesConfig
from keel.verbs.cases.groups import groups_of
from keel.verbs.cases.people import add_people
from keel.verbs.cases.read import read_run
from keel.verbs.cases.reasons import reasons_of
from keel.verbs.cases.run import run_cases, tasks_in
from keel.verbs.cases.talks import is_empty, last_asked, question, turns_of
from keel.verbs.cases.tasks import asked_of, make_tasks

ROOT = Path(__file__).resolve().parents[2]
CALL = {"tool_calls": [{"function": {"name": "look", "arguments": {"where": "left"}}}]}
GUESS = Prompt("g", (Message("system", "Play fair."), Message("user", "Guess."), Message("assistant", "Ready?"), Message("user", "Yes.")))


def talk(*texts: str, worth: float = 0.0) -> dict[str, Any]:
    """Answers and what the world said to them, in turn, as an evaluation keeps them."""
    turns = [{"role": "user" if i % 2 else "assistant", "text": text, **({} if i % 2 else {"reward": 0.0})} for i, text in enumerate(texts)]
    return {"text": texts[-1 if len(texts) % 2 else -2], "rules": {"environment": worth}, "tokens": len(texts), "turns": turns}


def answer(*texts: str) -> Answer:
    told = talk(*texts)
    return Answer(told["text"], turns=tuple(told["turns"]))


def of_tool(text: str) -> Answer:
    turns = (
        {"role": "assistant", "text": "", **CALL},
        {"role": "tool", "name": "look", "text": "a tree"},
        {"role": "assistant", "text": text},
    )
    return Answer(text, turns=turns)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Twelve games. The tuned model loses the first two, each behind the same two turns as the start's; the others it wins."""
    folder = tmp_path / "run"
    (folder / "samples").mkdir(parents=True)
    config = {"model": "m", "model_name": "tuned", "baseline_name": "start"}
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "verb": "eval", "config": config, "starts": []}))
    (folder / "summary.json").write_text(json.dumps({"schema": 1, "board": {"headline": "environment", "models": {}}}))
    rows: list[dict[str, Any]] = []
    for i in range(12):
        head = {"prompt_id": f"g{i}", "prompt": "Yes.", "language": "en", "category": "games"}
        good, bad = talk("5", "higher", "7", worth=1.0), talk("5", "higher", "6", "higher", "9", worth=0.1)
        before, after = (good, bad) if i < 2 else (talk("1", "higher", "2", "no", worth=0.2), talk("2", worth=0.9))
        rows.append({**head, "before": [before], "after": [after]})
    whole = [{"role": m.role, "content": m.text} for m in GUESS.messages]
    prompts = [{"prompt_id": f"g{i}", "prompt": whole, "prompt_source_id": f"f:{i}", "meta": {}} for i in range(12)]
    for name, its in (("evaluation", rows), ("prompts", prompts)):
        (folder / "samples" / f"{name}.jsonl").write_bytes(b"".join(map(json_line, its)))
    return folder


def test_the_question_goes_up_to_the_last_turn_that_both_were_asked() -> None:
    prompt, one, two = question(GUESS, answer("5", "higher", "7"), answer("5", "higher", "6", "higher", "9", "no"))
    assert [m.text for m in prompt.messages] == ["Play fair.", "Guess.", "Ready?", "Yes.", "5", "higher"]
    assert prompt.prompt_id != GUESS.prompt_id, "another question than the prompt's own"
    assert ([m.text for m in one], [m.text for m in two]) == (["7"], ["6", "higher", "9"]), "the world's last word tells who won"
    prompt, one, two = question(GUESS, answer("5", "higher", "7"), answer("6", "higher", "7"))
    assert prompt is GUESS
    assert (len(one), len(two)) == (3, 3)
    plain = Answer("Seven.")
    assert question(GUESS, plain, Answer("Six.")) == (GUESS, (Message("assistant", "Seven."),), (Message("assistant", "Six."),))
    assert question(GUESS, plain, answer("7", "no"))[0] is GUESS
    prompt, one, two = question(GUESS, of_tool("A tree."), of_tool("A house."))
    assert [m.role for m in prompt.messages][-2:] == ["assistant", "tool"]
    assert prompt.messages[-2].extra == CALL
    assert (one[0].text, two[0].text) == ("A tree.", "A house.")


def test_what_is_empty_and_what_was_asked_last() -> None:
    assert [is_empty(a) for a in (Answer(" "), answer("", "higher", ""), answer("", "higher", "7"), of_tool(""))] == [
        True,
        True,
        False,
        False,
    ]
    assert last_asked("Yes.", answer("5", "higher", "7")) == "higher"
    assert last_asked("Yes.", answer("5", "higher")) == last_asked("Yes.", Answer("5")) == "Yes."
    assert [m.text for m in turns_of(answer("5", "higher"))] == ["5"]


def test_conversations_become_tasks_with_all_that_was_said(run: Path) -> None:
    read, config = read_run(run), CasesConfig(refrain=0, worst=0.2)
    reasons = reasons_of(read, config)
    assert {key: set(told) for key, told in reasons.items()} == {
        (f"g{i}", "tuned", 0): {"worst:environment", "lost:environment"} for i in range(2)
    }
    groups = {(g.by, g.name): (g.failures, g.answers) for g in groups_of(read, "tuned", reasons, config)}
    assert groups["turns", "3"] == (2, 2)
    made = make_tasks(read, reasons, "environment", config)
    assert len(made.tasks) == 1, "the other game asks the same of the same answers"
    assert made.left == {"was asked before": 1}
    task = made.tasks[0][0]
    assert [m.text for m in task.prompt.messages] == ["Play fair.", "Guess.", "Ready?", "Yes.", "5", "higher"]
    assert {tuple(m.text for m in c.messages) for c in task.candidates} == {("7",), ("6", "higher", "9")}
    assert {c.text for c in task.candidates} == {"7", "6\n\n9"}
    votes = {asked_of(task): Counter({answer_words(c.messages): 3 for c in task.candidates if len(c.messages) == 1})}
    found = add_people(read, {}, votes)
    assert {key: told["lost:people"] for key, told in found.items()} == {("g0", "tuned", 0): 1.0, ("g1", "tuned", 0): 1.0}


def test_the_page_shows_every_turn_with_who_said_it(run: Path) -> None:
    run_cases(run, ["refrain=0"])
    english, chinese = ((run / name).read_text(encoding="utf-8") for name in ("cases.html", "cases.zh.html"))
    shown = "<li class='user'><b>user</b><p lang='en' dir='auto'>higher</p></li><li class='assistant'><b>assistant</b>"
    assert shown in english
    assert "<li class='system'><b>system</b><p lang='en' dir='auto'>Play fair.</p></li>" in english
    assert "<b>助手</b> <span class='dim small'>奖励 0" in chinese
    assert "对话中的回答数" in chinese
    assert json.loads((run / "cases.json").read_text())["failing"][0]["turns"][1]["text"] == "higher"


def test_older_runs_say_of_turns_only_who_and_what(run: Path) -> None:
    file = run / "samples" / "evaluation.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    before = read_run(run).cases
    for row in rows:
        for told in (*row["before"], *row["after"]):
            told["turns"] = [[t["role"], t["text"]] for t in told["turns"]]
    file.write_bytes(b"".join(map(json_line, rows)))
    after = read_run(run).cases
    assert [turns_of(a) for c in before.values() for s in c.sides.values() for a in s] == [
        turns_of(a) for c in after.values() for s in c.sides.values() for a in s
    ]


def kept(step: int, turns: list[Mapping[str, Any]], reward: float, asked: Any) -> dict[str, Any]:
    head = {"step": step, "why": "fixed", "prompt_id": "g", "sample": 0, "prompt": "Yes.", "text": turns[-1]["text"], "tokens": [1, 2]}
    return {**head, "pieces": ["a", "b"], "prompt_tokens": 3, "sampled": [True, False], "logprobs": {}, "reward": reward} | (
        {"turns": turns} if asked == "old" else {"turns": turns, "asked": asked}
    )


@pytest.mark.parametrize("old", [False, True])
def test_conversations_of_an_rl_run(tmp_path: Path, old: bool) -> None:
    run = tmp_path / "rl"
    (run / "rollouts").mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps({"schema": 1, "verb": "rl", "config": {"model": "m"}, "starts": []}))
    asked = "old" if old else asked_row(replace(GUESS, meta={"category": "games", "hidden": 7}))
    for step, last, worth in ((0, "7", 1.0), (10, "6", 0.0)):
        turns = [*talk("5", "higher")["turns"], {"role": "assistant", "text": last, "reward": worth}]
        (run / "rollouts" / f"eval-{step:09d}.jsonl").write_bytes(json_line(kept(step, turns, worth, asked)))
    read = read_run(run)
    case = read.cases["g"]
    assert read.left_out == {}
    assert case.whole is not old
    assert case.sides["step 10"][0].tokens == 1, "what the world said is not counted"
    if not old:
        assert (case.prompt.messages, case.category, dict(case.prompt.meta)) == (GUESS.messages, "games", {"category": "games"})
    task, _ = make_tasks(read, {("g", "step 10", 0): {"worst:reward": 0.0}}, "reward", CasesConfig()).tasks[0]
    before = ["Yes."] if old else [m.text for m in GUESS.messages]
    assert [m.text for m in task.prompt.messages] == [*before, "5", "higher"]
    assert {c.text for c in task.candidates} == {"6", "7"}


def test_what_is_kept_of_a_prompt_beside_its_last_turn() -> None:
    assert asked_row(Prompt("p", (Message("user", "Yes."),), meta={"hidden": 7})) == {}
    assert asked_row(Prompt("p", text="Yes."))["prompt"] == "Yes."  # type: ignore[index]
    tools = asked_row(Prompt("p", (Message("user", "Yes."),), tools=({"name": "look"},)))
    assert tools is not None
    assert tools["tools"] == [{"name": "look"}]
    picture = Message("user", (ImagePart("data:image/png;base64,AA"), TextPart("Yes.")))
    assert asked_row(Prompt("p", (picture,))) is None


@pytest.mark.stages
def test_from_conversations_to_people_and_back_as_pairs_that_train(proofs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """keel eval with an environment -> keel mine -> the annotators' API -> votes -> pairs, whose turns of the policy are trained alone."""
    pytest.importorskip("fastapi", reason="the extra web is not installed")
    from starlette.testclient import TestClient

    import keel
    from keel.data.config import DataConfig
    from keel.data.conversion import comparisons_to_pairs
    from keel.data.dataset import load
    from keel.feedback import members
    from keel.feedback.db import Store
    from keel.types import Comparison, Unit
    from keel.web.app import make_app
    from keel.web.settings import WebSettings

    monkeypatch.chdir(ROOT)
    sampling = EvaluateConfig.sampling

    def ending(config: EvaluateConfig, stop: Any = (), banned: Any = ()) -> SamplingParams:
        return replace(sampling(config, stop, banned), stop=("e", "a", "i"))  # an untrained model ends no answer by itself

    monkeypatch.setattr(EvaluateConfig, "sampling", ending)
    run, store = tmp_path / "eval", f"sqlite:///{tmp_path}/f.db"
    world = "environment={path: 'tests/environments/worlds.py:Letters', max_turns: 3, max_tokens: 200, processes: 0}"
    limits = "evaluate={prompts: [recipes/tiny/eval_prompts.jsonl], limit: 6, samples: 2, max_tokens: 30}"
    assert main(["eval", "recipes/tiny_eval.yaml", world, "rewards=[]", "others=[]", limits, f"run_dir={run}"]) == 0
    assert main(["mine", str(run), "--to", store, "--campaign", "talks", "worst=0.4", "tasks=4"]) == 0
    tasks = tasks_in(store, "talks")
    assert any(len(c.messages) > 2 for t in tasks for c in t.candidates), "conversations"
    assert all("Be short." in t.prompt.messages[0].text for t in tasks), "what the world says before the first answer"
    with Store(store) as opened:
        app = make_app(opened, WebSettings(tmp_path / "media"))
        opened.add_account("ann", "correct horse", "annotator")
        opened.write(lambda c: members.member_state(c, "ann", "talks")).result()
        client = TestClient(app, "http://127.0.0.1:8766")
        csrf = client.post("/api/login", json={"name": "ann", "password": "correct horse"}, headers={"x-csrf": "page"}).json()["csrf"]
        given = client.get(f"/api/campaigns/talks/items?n={len(tasks)}").json()["items"]
        shown = [turn["role"] for item in given for a in item["answers"] for turn in a.get("turns", ())]
        assert {"assistant", "user"} <= set(shown)
        for n, item in enumerate(given):
            event = {"event_id": f"event-{n:020d}", "handle": item["handle"], "answer": {"type": "choice", "chosen": "first"}}
            assert client.post("/api/judgements", json=event, headers={"x-csrf": csrf}).status_code == 200
    out = tmp_path / "pairs.jsonl"
    assert main(["feedback", "export", "--store", store, "--campaign", "talks", "--as", "training", "--out", str(out), "--surplus"]) == 0
    votes = [record for record in load(DataConfig(path=[str(out)])).records if isinstance(record, Comparison)]
    pairs = comparisons_to_pairs(votes)
    assert len(pairs) == len(given)
    policy = keel.load("tiny:llama?seed=1", precision="fp32")
    longest = max(pairs, key=lambda pair: len(pair.chosen))
    unit = policy.renderer.unit(longest)
    assert isinstance(unit, Unit)
    said = "".join(m.text for m in longest.chosen if m.role == "assistant")
    branch = unit.branches[0]
    trained = policy.renderer.decode(branch.tokens_T[branch.trained_T])
    assert len(longest.chosen) > 2
    assert "die" in policy.renderer.decode(branch.tokens_T), "the world's words are read"
    assert "die" not in trained or "die" in said, "and not trained"
    assert main(["cases", str(run), "--store", store, "--campaign", "talks", "worst=0.4"]) == 0
    assert "People: " in (run / "cases.html").read_text()
