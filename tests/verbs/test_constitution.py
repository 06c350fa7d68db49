"""`keel constitution`: prices before calls, what is left behind, kills, and every mistake told before anything is paid."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from keel.cli import main
from keel.core.config import load
from keel.core.errors import ConfigError, DataError
from keel.data.config import DataConfig
from keel.data.dataset import load as load_data
from keel.feedback.db import Store
from keel.feedback.own_files import read_files
from keel.rewards.constitution.config import read_constitution
from keel.types import Demonstration, Pair
from keel.verbs.constitution.answers import from_data
from keel.verbs.constitution.measure import errors
from keel.verbs.constitution.plan import plan_constitution
from keel.verbs.constitution.recipe import ConstitutionRecipe
from keel.verbs.constitution.run import run_constitution
from keel.verbs.shared.tasks import read_tasks

pytest.importorskip("httpx")
HERE = Path(__file__).parent
for folder in ("critique", "judges"):
    sys.path.insert(0, str(HERE.parent / folder))

from asking import Server, completion  # noqa: E402
from served import Knowing  # noqa: E402
from writers import banned, constitution  # noqa: E402

PRINCIPLES = """
language: {language}
bands: [high, low]
principles:
  - {{name: no_red, text: It does not say red., band: high, weight: 2}}
  - name: short
    text: It is short.
    band: low
    scorer: {{type: rule, rules: {{length: {{bands: [{{low: 1, high: 4, score: 1}}], otherwise: 0.2}}}}}}
"""
ROWS = [
    {"prompt": "Which tent?", "answers": ["the red tent", "the blue tent", "the blue tent is over there"], "id": "q1"},
    {"prompt": "Which rope?", "answers": ["a red rope", "a rope"], "id": "q2"},
    {"prompt": "Which map?", "answers": ["a map", "that map"], "id": "q3"},
    {"prompt": "Nobody answered this", "id": "q4"},
]


@pytest.fixture
def served() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def recipe_file(tmp_path: Path, url: str, language: str = "en", **more: Any) -> Path:
    (tmp_path / "principles.yaml").write_text(PRINCIPLES.format(language=language), encoding="utf-8")
    far = {"type": "endpoint", "url": url, "model": "m", "journal": str(tmp_path / "calls.sqlite"), "concurrency": 2, "attempts": 1}
    far |= {"price": {"read": 1000.0, "written": 1000.0}, "max_tokens": 64}
    if language == "zh":
        far["templates"] = {"rubric": "rubric_zh"}
    (tmp_path / "judges.yaml").write_text(json.dumps({"judges": {"far": far, "fake": {"type": "scripted"}}}), encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS), encoding="utf-8")
    use = {"path": str(tmp_path / "principles.yaml"), "judges": str(tmp_path / "judges.yaml"), "judge": "far", "override": "far"}
    recipe: dict[str, Any] = {"data": {"path": str(tmp_path / "rows.jsonl")}, "source": "data", "constitution": use}
    recipe |= {"revise": {"critic": "far", "reviser": "far", "revisions": 1, "rounds": 2}, "run_dir": str(tmp_path / "run")}
    (tmp_path / "recipe.yaml").write_text(json.dumps({**recipe, **more}), encoding="utf-8")
    return tmp_path / "recipe.yaml"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_calls_and_price_before_the_first(served: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["constitution", str(recipe_file(tmp_path, served.url)), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])["plan"]
    assert (plan["prompts"], plan["answers"], plan["revised"]) == (4, 7, 3)
    calls = {name: c["calls"] for name, c in plan["calls"].items()}
    assert calls == {"judge far": 7 + 3 * 2, "critiques by far": 3 * 2, "revisions by far": 3 * 2}
    assert plan["price"] == pytest.approx(sum(c["price"] for c in plan["calls"].values()))
    assert plan["price"] > (13 * 1 + 6 * 64 + 6 * 64) * 1e-3
    assert served.bodies == []
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "calls.sqlite").exists()


def test_the_price_holds_for_answers_longer_than_a_model_would_write(served: Server, tmp_path: Path) -> None:
    """8,000 signs are 4,000 tokens at most, 4 of the price; and whichever answers the measure draws."""
    path = recipe_file(tmp_path, served.url, measure={"answers": 1, "critic": "far", "labels": False})
    rows = [{"prompt": "Which tent?", "answers": ["a tent"]}, {"prompt": "Which rope?", "answers": ["a long rope. " * 600]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    plan = plan_constitution(load(ConstitutionRecipe, path))
    calls = plan["calls"]
    assert calls["critiques by far"]["price"] > 2 * 3.9  # two rounds
    assert calls["revisions by far"]["price"] > 2 * 3.9
    assert calls["critiques by far, measured"]["calls"] == 1
    assert calls["critiques by far, measured"]["price"] > 3.9
    assert plan["idle"] == []


def test_a_panel_that_loads_a_model_still_tells_what_its_servers_cost(served: Server, tmp_path: Path) -> None:
    path = recipe_file(tmp_path, served.url)
    alone = plan_constitution(load(ConstitutionRecipe, path))["calls"]["judge far"]
    file = tmp_path / "judges.yaml"
    judges = json.loads(file.read_text(encoding="utf-8"))
    judges["judges"] |= {"here": {"type": "local", "model": "nowhere"}, "both": {"type": "panel", "members": ["far", "here"]}}
    file.write_text(json.dumps(judges), encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace('"judge": "far", "override": "far"', '"judge": "both", "override": "both"'))
    assert plan_constitution(load(ConstitutionRecipe, path))["calls"]["judge both"] == alone


def test_the_longest_revision_is_that_of_whoever_writes_it(served: Server, tmp_path: Path) -> None:
    """A server writes up to its own max_tokens, not up to ``revise.max_tokens``: the next round's critic reads that."""

    def price(max_tokens: int) -> float:
        path = recipe_file(tmp_path, served.url)
        text = (tmp_path / "judges.yaml").read_text(encoding="utf-8").replace('"max_tokens": 64', f'"max_tokens": {max_tokens}')
        (tmp_path / "judges.yaml").write_text(text, encoding="utf-8")
        return plan_constitution(load(ConstitutionRecipe, path))["calls"]["judge far"]["price"]

    assert price(4064) - price(64) == pytest.approx(6 * 8.0, rel=1e-3)  # 6 scores of revisions, each of 16,000 signs more


def test_a_principle_that_applies_to_nothing_is_told(served: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe_file(tmp_path, served.url)
    with (tmp_path / "principles.yaml").open("a", encoding="utf-8") as file:
        file.write("  - {name: dose, text: It sets no dose., domains: [medical]}\n")
    assert main(["constitution", str(path), "--dry-run"]) == 0
    assert "# principles that apply to no prompt, by its domain or language: dose" in capsys.readouterr().out


def test_what_is_left_behind(served: Server, tmp_path: Path) -> None:
    served.reply = knowing = Knowing()
    path = recipe_file(tmp_path, served.url, audit={"store": f"sqlite:///{tmp_path / 'f.db'}", "campaign": "look"})
    summary = run_constitution(load(ConstitutionRecipe, path), tmp_path / "run")
    run = tmp_path / "run"
    assert (summary["prompts"], summary["answers"]) == (3, 7)
    assert knowing.kinds == {"score": 7 + 2, "critique": 2, "revision": 2}  # the map is good: nothing is asked about it
    assert summary["calls"] == 13
    assert summary["cost"] == pytest.approx((9 * 101 + 2 * 120 + 2 * 110) / 1e3)

    answers = {a["text"]: a for a in lines(run / "answers.jsonl")}
    assert answers["the red tent"]["broken"] == ["no_red"]
    assert answers["the blue tent is over there"]["broken"] == ["short"]
    assert answers["a map"]["score"] == pytest.approx(1.0, abs=0.01)
    table = summary["principles"]["no_red"]
    assert {k: table[k] for k in ("band", "aspect", "weight")} == {"band": "high", "aspect": "content", "weight": 2.0}
    assert (table["answers"], table["broken"]) == (7, 2)

    demonstrations = load_data(DataConfig(path=str(run / "demonstrations.jsonl")))
    assert all(isinstance(r, Demonstration) for r in demonstrations.records)
    assert sorted(r.completion[0].text for r in demonstrations.records) == ["a green rope", "a map", "the green tent"]  # type: ignore[union-attr]
    pairs = load_data(DataConfig(path=str(run / "pairs.jsonl")))
    assert all(isinstance(r, Pair) and r.margin > 0.1 for r in pairs.records)
    made = {(r.chosen[0].text, r.rejected[0].text) for r in pairs.records}  # type: ignore[union-attr]
    assert made == {("the blue tent", "the red tent"), ("the blue tent", "the blue tent is over there"), ("a rope", "a red rope")}
    (pair,) = [r for r in lines(run / "revision_pairs.jsonl") if r["prompt_id"] == pairs.records[-1].prompt.prompt_id]  # type: ignore[union-attr]
    (step,) = pair["origin"]["steps"]
    assert (step["principle"], step["severity"], step["outcome"], step["text"]) == ("no_red", 4, "revised", "a green rope")
    assert summary["revised"]["edit"] == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert summary["conflicts"] == [{"won": "no_red", "lost": "short", "by": "band", "count": 1}]

    tasks = read_tasks(run / "audit.jsonl")
    assert len(tasks) == 1
    with Store(f"sqlite:///{tmp_path / 'f.db'}") as store:
        assert [c.name for c in store.campaigns()] == ["look"]
    with Store(f"sqlite:///{tmp_path / 'judged.db'}") as store:
        assert read_files(store, [run / "judgements.jsonl"])["judgement"] == 18  # each of 9 answers: a call, and the verdict
    rated = {t["task"]["candidates"][0]["candidate_id"] for t in lines(run / "judgements.jsonl") if "task" in t}
    assert rated >= {a["candidate_id"] for a in answers.values()}  # a judgement leads to its answer
    left = {r["reason"] for r in lines(run / "left_out.jsonl")}
    assert left == {"holds no answer"}
    page = (run / "constitution.html").read_text(encoding="utf-8")
    assert "the green tent" in page
    assert "no_red over short" in page

    before = len(served.bodies)
    assert run_constitution(load(ConstitutionRecipe, path), tmp_path / "run")["pairs"] == 3  # finished: nothing is asked
    run_constitution(load(ConstitutionRecipe, path), tmp_path / "other")  # all of it is in the journal
    assert len(served.bodies) == before
    for name in ("answers", "pairs", "revision_pairs", "demonstrations", "history", "audit"):
        assert (tmp_path / "other" / f"{name}.jsonl").read_bytes() == (run / f"{name}.jsonl").read_bytes()


def test_chinese_is_asked_in_chinese(served: Server, tmp_path: Path) -> None:
    served.reply = knowing = Knowing()
    summary = run_constitution(load(ConstitutionRecipe, recipe_file(tmp_path, served.url, "zh")), tmp_path / "run")
    assert summary["demonstrations"] == 3
    assert knowing.kinds["critique"] == 2
    assert all("原则" in b["messages"][1]["content"] or "这一点是" in b["messages"][1]["content"] for b in served.bodies)


def test_a_server_that_fails_makes_no_low_scores(served: Server, tmp_path: Path) -> None:
    served.reply = lambda body: (500, {}, {"error": "down"})
    path = recipe_file(tmp_path, served.url)
    with pytest.raises(DataError, match="no answer got a score"):
        run_constitution(load(ConstitutionRecipe, path), tmp_path / "run")
    served.reply = Knowing()
    assert run_constitution(load(ConstitutionRecipe, path), tmp_path / "run")["pairs"] == 3  # and goes on when it is back


def test_critics_that_say_nonsense_are_counted(served: Server, tmp_path: Path) -> None:
    knowing = Knowing()
    served.reply = lambda body: (200, {}, completion("It violates the principle.")) if "response_format" in body else knowing(body)
    summary = run_constitution(load(ConstitutionRecipe, recipe_file(tmp_path, served.url)), tmp_path / "run")
    assert summary["revised"]["outcomes"] == {"the critic failed": 2}
    assert summary["revised"]["failed_replies"] == {"reply": 2}
    assert summary["revision_pairs"] == 0
    assert summary["demonstrations"] == 1
    assert summary["pairs"] == 3


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"source": "model"}, "model: needed"),
        ({"model": "tiny:llama"}, "model would have no effect"),
        ({"samples": 3}, "samples would have no effect: with source=data"),
        ({"revise": {"critic": "rules", "reviser": "far"}}, "rules know nothing of no_red"),
        ({"revise": {"critic": "far", "reviser": "rules"}}, "rules cannot write"),
        ({"revise": {"critic": "fake", "reviser": "far"}}, "cannot write critiques"),
        ({"revise": {"critic": "far", "reviser": "nobody"}}, "there is no judge 'nobody'"),
        ({"revise": {"critic": "far", "reviser": "far", "temperature": 0}}, "same revision again"),
        ({"measure": {"labels": False}}, "no effect with measure.answers=0"),
    ],
)
def test_mistakes_are_told_before_anything_is_paid(served: Server, tmp_path: Path, more: dict[str, Any], told: str) -> None:
    path = recipe_file(tmp_path, served.url, **more)
    with pytest.raises(ConfigError, match=told):
        run_constitution(load(ConstitutionRecipe, path), tmp_path / "run")
    assert served.bodies == []


RULED = {"path": "checkable"}
FAR = {"critic": "far", "reviser": "far"}
UNREAD = [
    ({"revise": {"answers": 0, "rounds": 2}}, "revise.rounds would have no effect: with revise.answers=0"),
    ({"revise": {"answers": 0, "critic": "far"}}, "revise.critic would have no effect"),
    ({"revise": {"answers": 0, "temperature": 0.1, "gain": 0.5}}, "revise.gain .*; revise.temperature would have no effect"),
    ({"revise": {"answers": 0, "max_tokens": 32}}, "revise.max_tokens would have no effect: `model` writes nothing"),
    ({"revise": {"answers": 0, "critique_template": "critique_zh"}}, "critique_template would have no effect: nobody writes a critique"),
    ({"revise": {**FAR, "max_tokens": 32}}, "revise.max_tokens would have no effect: `model` writes nothing"),
    ({"revise": {**FAR, "critic": "rules", "critique_template": "critique_zh"}, "constitution": RULED}, "nobody writes a critique"),
    ({"revise": {**FAR, "revisions": 1, "slack": 0.2}}, "revise.slack would have no effect: one revision"),
    ({"audit": {"campaign": "look"}}, "audit.campaign would have no effect: tasks go into no store"),
    ({"audit": {"people": 3}}, "audit.people would have no effect: tasks go into no store"),
    ({"audit": {"share": 0, "store": "sqlite:///f.db"}}, "audit.store would have no effect: nobody is asked"),
    ({"audit": {"share": 0, "protocol": "x"}}, "audit.protocol would have no effect: nobody is asked"),
    ({"cut": "keep"}, "cut would have no effect: with source=data"),
    ({"sampler": {"max_rows": 3}}, "sampler would have no effect: with source=data"),
    ({"constitution": RULED | {"judge": "far"}}, "judge would have no effect: no principle is scored by a judge"),
    ({"constitution": RULED | {"override": "far", "report": "r.json"}}, "override, report would have no effect"),
    ({"constitution": RULED | {"samples": 2}}, "samples would have no effect"),
    ({"constitution": RULED | {"judges": "j.yaml"}, "revise": {"answers": 0}}, "judges would have no effect: .*nobody of that file writes"),
]


@pytest.mark.parametrize(("more", "told"), UNREAD)
def test_a_setting_that_nothing_reads_is_refused(served: Server, tmp_path: Path, more: dict[str, Any], told: str) -> None:
    path = recipe_file(tmp_path, served.url, **more)
    with pytest.raises(ConfigError, match=told):
        plan_constitution(load(ConstitutionRecipe, path))
    with pytest.raises(ConfigError, match=told):
        run_constitution(load(ConstitutionRecipe, path), tmp_path / "run")
    assert served.bodies == []


def test_settings_that_somebody_reads_are_taken(served: Server, tmp_path: Path) -> None:
    """The same ones where they mean something."""
    judges = str(tmp_path / "judges.yaml")
    measured = {"answers": 1, "critic": "far", "labels": False}
    for more in (
        {"revise": {"answers": 0, "critique_template": "critique_en"}, "measure": measured},
        {"revise": {"answers": 0, "max_tokens": 32}, "measure": {"answers": 1}, "model": "tiny:llama"},
        {"constitution": RULED | {"judges": judges}, "revise": {**FAR, "critic": "rules"}},
        {"constitution": RULED | {"judges": judges}, "revise": {"answers": 0}, "measure": measured},
        {"audit": {"campaign": "look", "people": 2, "store": f"sqlite:///{tmp_path / 'f.db'}"}},
    ):
        plan_constitution(load(ConstitutionRecipe, recipe_file(tmp_path, served.url, **more)))


MORE_THAN_TEXT = [
    ([{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}], "of several turns"),
    ([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image", "image": "a.png"}]}], "with images"),
    ([{"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}], "with tool_calls"),
    ([{"role": "assistant", "content": "a", "reasoning_content": "hm"}], "with reasoning_content"),
]


def test_answers_that_are_more_than_a_text_are_left_out_by_name(tmp_path: Path) -> None:
    """None is cut down to the part that can be scored."""
    whole = [{"role": "assistant", "content": "a whole answer"}]
    rows = [{"prompt": [{"role": "user", "content": f"q{k}"}], "completion": turns} for k, (turns, _) in enumerate(MORE_THAN_TEXT)]
    rows.append({"prompt": [{"role": "user", "content": "q"}], "completion": whole})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    found, lost = from_data(load_data(DataConfig(path=str(tmp_path / "rows.jsonl"))), read_constitution("checkable"))
    assert [c.text for _, c in found] == ["a whole answer"]
    assert [x.reason for x in lost] == [f"an answer {why}" for _, why in MORE_THAN_TEXT]
    assert all(x.source_id.endswith(f":{k}") for k, x in enumerate(lost, 1))
    rows = [{"prompt": "q", "answers": ["a", "", 3, "b"]}, {"prompt": "r"}]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    found, lost = from_data(load_data(DataConfig(path=str(tmp_path / "own.jsonl"))), read_constitution("checkable"))
    assert [c.text for _, c in found] == ["a", "b"]
    assert [x.reason for x in lost] == ["an empty answer", "an answer that is no text", "holds no answer"]
    (tmp_path / "none.jsonl").write_text(json.dumps({"prompt": "q", "answers": [" "]}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no row holds an answer that can be scored \(1x an empty answer\)"):
        from_data(load_data(DataConfig(path=str(tmp_path / "none.jsonl"))), read_constitution("checkable"))


def test_one_question_in_two_domains_is_two_prompts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each keeps the principles of its domain; a column that decides nothing splits nothing, and is told of."""
    rows = [
        {"prompt": "How much?", "answers": ["two"], "domain": "medical", "from": "x"},
        {"prompt": "How much?", "answers": ["three"], "domain": "medical", "from": "y"},
        {"prompt": "how  much", "answers": ["two"], "domain": "legal", "from": "x"},
        {"prompt": "How much?", "answers": ["two"], "from": "x"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    principles = "principles: [{name: dose, text: No dose., domains: [medical]}, {name: law, text: No law., domains: [legal]}]"
    (tmp_path / "c.yaml").write_text(principles, encoding="utf-8")
    constitution_ = read_constitution(str(tmp_path / "c.yaml"))
    with caplog.at_level("INFO", "keel"):
        found, lost = from_data(load_data(DataConfig(path=str(tmp_path / "rows.jsonl"))), constitution_)
    assert not lost
    assert [[p.name for p in constitution_.of(prompt)] for prompt, _ in found] == [["dose"], ["dose"], ["law"], []]
    ids = [prompt.prompt_id for prompt, _ in found]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert "column from differs in 1 rows" in caplog.text


def test_a_later_round_repeats_no_judgement(served: Server, tmp_path: Path) -> None:
    """A revision that comes back to a text that was scored before is that answer, and stands once."""
    knowing = Knowing()

    def reply(body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        status, headers, found = knowing(body)
        if "response_format" not in body and body["max_tokens"] > 1:  # a revision: the same text in every round
            found = completion("the blue tent", usage=(100, 10))
        return status, headers, found

    served.reply = reply
    run_constitution(load(ConstitutionRecipe, recipe_file(tmp_path, served.url)), tmp_path / "run")
    rows = lines(tmp_path / "run" / "judgements.jsonl")
    events = [r["judgement"]["event_id"] for r in rows if "judgement" in r]
    tasks = [r["task"]["task_id"] for r in rows if "task" in r]
    assert len(events) == len(set(events)) == 2 * len(tasks)
    assert len(tasks) == len(set(tasks)) == 7 + 1  # of the rope a blue tent


def test_a_judge_that_reads_text_alone_refuses_pictures_at_the_start(served: Server, tmp_path: Path) -> None:
    """Before any call, by name; a column that describes them, or a judge that sees them, will do."""
    path = recipe_file(tmp_path, served.url, revise={"critic": "far", "reviser": "far", "revisions": 1, "rounds": 1})
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    rows = [{"prompt": "What is it?", "images": ["a.png"], "answers": ["a red tent"], "caption": "A blue tent."}]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    served.reply = Knowing()
    with pytest.raises(DataError, match=r"judge far reads text alone, and 1 rows hold images: .*rows.jsonl:1"):
        run_constitution(load(ConstitutionRecipe, path), tmp_path / "no")
    assert served.bodies == []
    principles = (tmp_path / "principles.yaml").read_text(encoding="utf-8")
    (tmp_path / "principles.yaml").write_text("image_text: caption\n" + principles, encoding="utf-8")
    assert run_constitution(load(ConstitutionRecipe, path), tmp_path / "told")["revision_pairs"] == 1
    assert all("[image: A blue tent.]" in json.dumps(b) and "data:image" not in json.dumps(b) for b in served.bodies)
    (tmp_path / "principles.yaml").write_text(principles, encoding="utf-8")
    text = (tmp_path / "judges.yaml").read_text(encoding="utf-8").replace('"type": "endpoint"', '"type": "endpoint", "images": true')
    (tmp_path / "judges.yaml").write_text(text, encoding="utf-8")
    served.bodies.clear()
    served.reply = shown = Knowing()
    assert run_constitution(load(ConstitutionRecipe, path), tmp_path / "seen")["revision_pairs"] == 1
    assert shown.kinds == {"score": 2, "critique": 1, "revision": 1}
    assert all("data:image/png" in json.dumps(b) for b in served.bodies)


def test_a_judge_without_a_report_may_not_label(served: Server, tmp_path: Path) -> None:
    path = recipe_file(tmp_path, served.url)
    with pytest.raises(ConfigError, match="may not be a labeller: it has no report"):
        run_constitution(load(ConstitutionRecipe, path, ["constitution.override=''"]), tmp_path / "run")


def test_how_often_a_critic_is_wrong_by_hand() -> None:
    from keel.critique.rlaif import Answer
    from keel.rewards.constitution.scoring import Scorer
    from keel.types import Candidate, Message, Prompt

    scorer = Scorer(constitution(banned("no_red", "red")))
    prompts = [Prompt(str(i), (Message("user", str(i)),)) for i in range(5)]
    texts = ["red", "red", "tent", "tent", "tent"]
    answers = [Answer(p, Candidate("c", t), s) for p, t, s in zip(prompts, texts, scorer.score(list(zip(prompts, texts))), strict=True)]
    cases = [(a, scorer.constitution.principles[0]) for a in answers]
    found = errors(cases, [True, False, False, True, None])["all"]
    assert (found["cases"], found["without_verdict"], found["broken"], found["said_broken"]) == (5, 1, 2, 2)
    assert (found["missed"], found["false_alarms"]) == (1, 1)
    assert found["wrong"]["mean"] == 0.5
    assert found["wrong"]["n"] == 4
    assert found["always_the_same"] == 0.5
    assert found["balanced"] == 0.5
    nothing = errors(cases, [None] * 5)["all"]
    assert (nothing["wrong"], nothing["balanced"], nothing["without_verdict"]) == (None, None, 5)


@pytest.mark.stages
@pytest.mark.slow
def test_killed_and_started_again_pays_nothing_twice(served: Server, tmp_path: Path) -> None:
    """The server answers so many calls, holds the next ones, and the process is killed; then it is started again."""
    path = recipe_file(tmp_path, served.url)
    enough, gone = threading.Event(), threading.Event()
    knowing = Knowing()

    def reply(body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        found = knowing(body)
        if knowing.paid.total() > 9:  # scores are done, critiques have begun
            enough.set()
            gone.wait(120)
        return found

    served.reply = reply
    command = [sys.executable, "-m", "keel.cli", "constitution", str(path)]
    job = subprocess.Popen(command)
    assert enough.wait(300)
    job.send_signal(signal.SIGKILL)
    job.wait()
    gone.set()
    subprocess.run(command, check=True)
    twice = sum(n > 1 for n in knowing.paid.values())
    assert twice <= 2  # in flight when it died: `concurrency`
    assert len(knowing.paid) == 13
    total = knowing.paid.total()
    subprocess.run(command, check=True)
    assert knowing.paid.total() == total
    assert len(lines(tmp_path / "run" / "pairs.jsonl")) == 3


@pytest.mark.stages
def test_the_tiny_recipe(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model answers, criticises and revises itself; pairs train it; the evaluation is scored by the principles."""
    monkeypatch.chdir(root)
    assert main(["run", "recipes/tiny_constitution.yaml", f"run_dir={tmp_path / 'run'}"]) == 0
    stage = json.loads((tmp_path / "run" / "stages" / "constitution" / "summary.json").read_text())
    assert stage["answers"] == 32
    assert stage["pairs"] > 0
    assert stage["audit"] >= 1
    assert set(stage["critics"]) == {"model, in words", "model, by one label"}
    whole = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {"constitution", "prefer", "evaluate"} == set(whole["stages"])


@pytest.mark.stages
@pytest.mark.parametrize("cut", ["drop", "worse", "keep"])
def test_answers_that_were_cut_off(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, cut: str) -> None:
    """A model that never ends within four tokens: all of its answers are halves, and no half is learnt from unless somebody says so."""
    monkeypatch.chdir(root)
    recipe = {
        "model": "tiny:llama?seed=1",
        "data": {"path": "recipes/quickstart/prompts_train.jsonl", "limit": 3},
        "samples": 3,
        "cut": cut,
        "sampling": {"max_tokens": 4},
        "constitution": {"path": "recipes/tiny/principles.yaml"},
        "revise": {"critic": "rules", "rounds": 1, "revisions": 1, "max_tokens": 8, "keep": False},
        "pairs": {"gap": 0.001},
        "settings": {"threads": 1},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    config, out = load(ConstitutionRecipe, tmp_path / "recipe.yaml"), tmp_path / "run"
    if cut == "drop":
        with pytest.raises(DataError, match=r"no answer to score \(9x cut off at sampling.max_tokens\)") as told:
            run_constitution(config, out)
        assert "cut=worse or keep" in str(told.value)
        assert {r["reason"] for r in lines(out / "left_out.jsonl")} == {"cut off at sampling.max_tokens"}
        return
    summary = run_constitution(config, out)
    assert summary["cut_off"] == {"how": cut, "answers": 9}
    assert summary["answers"] == 9
    halves = {(a["prompt_id"], a["text"]) for a in lines(out / "answers.jsonl")}
    learnt = {(r["prompt_id"], r["completion"][0]["content"]) for r in lines(out / "demonstrations.jsonl")}
    better = {(r["prompt_id"], r["chosen"][0]["content"]) for r in lines(out / "pairs.jsonl")}
    if cut == "worse":
        assert not halves & (learnt | better)
        assert summary["compared"]["the better one cut off"] > 0
        assert summary["left_out"]["no demonstration"] == 3 - len(learnt)
    else:
        assert halves & better
    assert "cut off at sampling.max_tokens" in (out / "constitution.html").read_text(encoding="utf-8")


@pytest.mark.stages
def test_the_recipe_with_a_server(served: Server, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model here answers, the server does all else; the price told before is not passed."""
    monkeypatch.chdir(root)
    served.reply = knowing = Knowing("e")
    far = {"type": "endpoint", "url": served.url, "model": "m", "journal": str(tmp_path / "calls.sqlite"), "attempts": 1, "budget": 900.0}
    far |= {"price": {"read": 1000.0, "written": 1000.0}, "max_tokens": 64}
    (tmp_path / "judges.yaml").write_text(json.dumps({"judges": {"server": far}}), encoding="utf-8")
    small = [
        "model=tiny:llama?seed=1",
        "data.limit=2",
        "samples=2",
        "cut=keep",
        "sampling.max_tokens=8",
        "revise.rounds=1",
        "settings={threads: 1}",
    ]
    given = [*small, f"constitution.judges={tmp_path / 'judges.yaml'}", f"run_dir={tmp_path / 'run'}"]
    path = root / "recipes" / "server_constitution.yaml"
    assert main(["constitution", str(path), *given, "--dry-run"]) == 0
    assert served.bodies == []
    plan = plan_constitution(load(ConstitutionRecipe, path, given))
    assert main(["constitution", str(path), *given]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["calls"] == knowing.paid.total() <= sum(c["calls"] for c in plan["calls"].values())
    assert 0 < summary["cost"] <= plan["price"]
    assert summary["override"] is True


@pytest.mark.stages
def test_principles_as_reward_in_rl(tmp_path: Path, root: Path, proofs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each principle stands in the metrics of a step, beside what the bands did."""
    monkeypatch.chdir(root)
    reward = "rewards=[{type: constitution, name: kept, path: recipes/tiny/principles.yaml}]"
    short = ["samples=4", "sampling.max_tokens=6", "loop={steps: 1, batch_size: 4, eval_every: 0, probes: 0, eval_at_start: false}"]
    given = [reward, *short, "settings={threads: 1}", "model_options.precision=fp32", f"run_dir={tmp_path / 'run'}"]
    assert main(["rl", "recipes/tiny_grpo.yaml", *given]) == 0
    row = next(r for r in lines(tmp_path / "run" / "metrics.jsonl") if "rewards/kept/mean" in r)
    for name in ("no_e", "short", "level", "broken", "flat", "overruled"):
        assert f"rewards/kept/{name}/mean" in row
    assert 0.0 <= row["rewards/kept/no_e/mean"] <= 1.0
