"""`keel collect` on tiny models: tasks from every source, what is left out by name, the same from the same seed, a stage of pipelines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keel.core.config import load
from keel.core.errors import ConfigError, DataError
from keel.feedback.candidates import make_candidate
from keel.feedback.exchange import table
from keel.pipeline import run_pipeline
from keel.types import Prompt
from keel.verbs.collect.choose import choose, tasks_of, usable
from keel.verbs.collect.recipe import CollectRecipe
from keel.verbs.run import run_verb

ROWS: list[dict[str, Any]] = [
    {"prompt": "How heavy is the tent?", "completion": "The tent weighs 3 kg and fits 2 people well.", "category": "tents", "level": 1},
    {"prompt": "帐篷有多重？", "completion": "这顶帐篷重3公斤，可以睡2个人。", "category": "tents", "level": 2},
    {"prompt": "Do you repair boots?", "completion": "Yes, we repair 4 kinds of boots in our shop.", "category": "boots", "level": 1},
    {"prompt": "Do you repair boots?", "completion": "Yes, we repair 4 kinds of boots in our shop.", "category": "boots", "level": 1},
    {"prompt": "When are you open?", "completion": "We open at 9 and close at 18 every day."},
]
RECIPE = """
model: tiny:llama?seed=1
model_options: {precision: fp32}
settings: {threads: 1}
data: {path: DIR/data.jsonl}
clean: {decontaminate: {path: [DIR/eval.jsonl]}}
sources:
  - {type: reference}
  - {type: model, name: greedy, samples: 1, temperatures: [0]}
  - {type: model, name: hot, samples: 2, temperatures: [1.0, 1.5], top_p: 0.9, system: Be brief.}
  - {type: model, name: other, model: "tiny:llama?seed=2", samples: 1}
  - {type: file, name: bot, data: {path: DIR/bot.jsonl}}
sampling: {max_tokens: 12}
candidates: {min_words: 1, keep: 7}
negatives: {share: 1.0}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (tmp_path / name).write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")

    write("data.jsonl", ROWS)
    write("eval.jsonl", [{"prompt": "when are you open"}])
    bot = [
        {"prompt": "how heavy is the tent", "completion": "About as heavy as a cat, maybe heavier."},
        {"prompt": "Unknown?", "completion": "So what."},
    ]
    write("bot.jsonl", bot)
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("DIR", str(tmp_path)), encoding="utf-8")
    return tmp_path


def collect(folder: Path, out: str, *overrides: str) -> dict[str, Any]:
    return run_verb("collect", folder / "recipe.yaml", [*overrides, f"run_dir={folder / out}"])


def left_out(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "left_out.jsonl").read_text(encoding="utf-8").splitlines()]


def test_tasks_from_every_source(folder: Path, proofs: None) -> None:
    summary = collect(folder, "one")
    found = table.read("auto", folder / "one" / "tasks.jsonl")
    assert summary["tasks"] == len(found.tasks) == 3
    assert not found.left_out
    sources = {c.origin["source"] for t in found.tasks for c in t.candidates}
    assert sources >= {"reference", "hot", "bot", "negative"}
    tent = next(t for t in found.tasks if t.prompt.text == "How heavy is the tent?")
    by_source = {c.origin["source"]: c for c in tent.candidates}
    assert by_source["reference"].text == ROWS[0]["completion"]
    assert by_source["bot"].text.startswith("About as heavy")
    for task in found.tasks:
        assert 2 <= len(task.candidates) <= 7
        assert sum("negative" in c.origin for c in task.candidates) == 1
        assert (task.kind, task.protocol) == ("ranking", "ranking-v1")
    hot = next(c for t in found.tasks for c in t.candidates if c.origin["source"] == "hot")
    assert {k: hot.origin[k] for k in ("model", "top_p", "system")} == {"model": "tiny:llama?seed=1", "top_p": 0.9, "system": "Be brief."}
    reasons = [r["reason"] for r in left_out(folder / "one")]
    assert any(r.startswith("exact_duplicate: repeats") for r in reasons)
    assert any(r.startswith("evaluation: holds 100%") for r in reasons)
    assert "bot: its prompt is none of those collected for" in reasons
    assert summary["clean"]["removed"] == 2
    report = json.loads((folder / "one" / "diversity.json").read_text(encoding="utf-8"))
    assert report["languages"]["prompts"] == {"en": 2, "zh": 1}
    assert report["difficulty"]["by_data"] == {"1": 2, "2": 1}
    page = (folder / "one" / "diversity.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "帐篷有多重？" in page
    collect(folder, "two")
    assert (folder / "two" / "tasks.jsonl").read_bytes() == (folder / "one" / "tasks.jsonl").read_bytes()


def test_no_answer_vanishes(folder: Path, proofs: None) -> None:
    """Answers that were drawn, found or made = those in tasks + those left out by name."""
    summary = collect(folder, "run", "negatives={}", "candidates.min_words=3", "candidates.keep=2")
    prompts = 3
    made = prompts * (1 + 1 + 2 + 1) + 1  # reference, greedy, hot, other; one of the bot's
    gone = [r for r in left_out(folder / "run") if r["side"] == "answers"]
    assert summary["answers"] + len(gone) == made


def test_a_store_takes_the_tasks_of_a_campaign(folder: Path, proofs: None) -> None:
    pytest.importorskip("sqlalchemy")
    from keel.feedback.db import Store
    from keel.feedback.own_files import read_files

    out = collect(folder, "run", "task.campaign=spring", "task.people=2")
    with Store(f"sqlite:///{folder / 'store.db'}") as store:
        assert read_files(store, [folder / "run" / "tasks.jsonl"])["task"] == out["tasks"]
        (campaign,) = store.campaigns()
        assert (campaign.name, campaign.wanted, campaign.kind, campaign.protocol) == ("spring", 2, "ranking", "ranking-v1")


def test_nothing_usable_is_told(folder: Path, proofs: None) -> None:
    with pytest.raises(DataError, match="not 400 to 500"):
        collect(folder, "none", "candidates.min_words=400")


def test_a_stage_leaves_its_tasks_to_the_next(folder: Path, proofs: None) -> None:
    recipe = folder / "pipeline.yaml"
    recipe.write_text(
        f"""
model: tiny:llama?seed=1
settings: {{threads: 1}}
stages:
  ask:
    verb: collect
    data: {{path: {folder}/data.jsonl}}
    sources: [{{type: reference}}, {{type: file, name: bot, data: {{path: {folder}/bot.jsonl}}}}]
    candidates: {{min_words: 1, at_least: 1}}
    task: {{kind: rating}}
  again:
    verb: collect
    model: "@model"
    data: {{path: "@ask/prompts.jsonl"}}
    sources: [{{type: model, name: m}}]
    candidates: {{min_words: 0, at_least: 1}}
    sampling: {{max_tokens: 8}}
    task: {{kind: rating}}
""",
        encoding="utf-8",
    )
    summary = run_pipeline(recipe, [f"run_dir={folder / 'pipe'}"])
    assert summary["stages"] == ["ask", "again"]
    assert (folder / "pipe" / "stages" / "ask" / "tasks.jsonl").is_file()
    assert table.read("keel", folder / "pipe" / "stages" / "again" / "tasks.jsonl").tasks


BASE: dict[str, Any] = {"data": {"path": "x"}, "sources": [{"type": "reference"}]}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"model": "tiny:llama"}, "would have no effect"),
        ({"sources": [{"type": "model", "name": "a"}]}, "names no model"),
        ({"sources": [{"type": "reference"}, {"type": "reference"}]}, "two sources"),
        ({"sampling": {"max_tokens": 3}}, "no source is a model"),
        ({"model": "m", "sources": [{"type": "model", "name": "a"}], "sampling": {"top_p": 0.5}}, "each source has its own"),
        ({"model": "m", "sources": [{"type": "model", "name": "a", "temperatures": [0]}]}, "greedy"),
        ({"candidates": {"keep": 2, "at_least": 3}}, "larger than keep"),
        ({"negatives": {"each": 2}}, "share=0"),
        ({"task": {"kind": "rating", "pairs": 3}}, "pairs would have no effect"),
        ({"task": {"people": 2}}, "without campaign"),
        ({"sources": [{"type": "web"}]}, "type"),
    ],
)
def test_recipes_that_mean_nothing_are_refused(change: dict[str, Any], part: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(json.dumps(BASE | change))
    with pytest.raises(ConfigError, match=part):
        load(CollectRecipe, tmp_path / "r.yaml", [])


def recipe(**changes: Any) -> CollectRecipe:
    return CollectRecipe.model_validate({**BASE, **changes})


def test_usable_answers() -> None:
    prompt = Prompt("p", text="q")
    words = [f"w{c}" for c in "abcdefghijklmnopqrst"]
    texts = [
        " ".join(words),
        " ".join(words),
        " ".join([*words[:19], "end"]),
        "short",
        " ".join([*words] * 30),
        "",
        "这是一个足够长的中文回答",
    ]
    kept, left = usable(prompt, [make_candidate("p", t, {"source": f"s{i}"}) for i, t in enumerate(texts)], recipe().candidates)
    assert [c.text for c in kept] == [texts[0], texts[6]]
    assert [r.reason.partition(" (")[0] for r in left] == [
        "s1: repeats an answer of s0",
        "s2: is more alike than 0.9 to an answer of s0",  # 37 of 41 words and pairs in common
        "s3: has 1 words, not 10 to 500",
        "s4: has 600 words, not 10 to 500",
        "s5: is empty",
    ]


@pytest.mark.parametrize(("kind", "sizes"), [("ranking", [4]), ("pairwise", [2, 2, 2]), ("rating", [1] * 4), ("spans", [1] * 4)])
def test_kinds_of_task(kind: str, sizes: list[int]) -> None:
    prompt = Prompt("p", text="q", source_id="f:1")
    answers = [
        make_candidate("p", f"{name} says something of its own about {name}s", {"source": name}) for name in ("ann", "bo", "cy", "di")
    ]
    mine = recipe(task={"kind": kind, **({"pairs": 3} if kind == "pairwise" else {})}, candidates={"min_words": 1})
    chosen, left = choose([prompt], {"p": answers}, mine)
    tasks = tasks_of([prompt], chosen, mine)
    assert [len(t.candidates) for t in tasks] == sizes
    assert not left
    assert all(t.protocol == f"{kind}-v1" for t in tasks)
    assert len({t.task_id for t in tasks}) == len(tasks)
    other = choose([prompt], {"p": answers}, mine.model_copy(update={"seed": 5}))[0]["p"]
    assert sorted(c.text for c in other) == sorted(c.text for c in chosen["p"])


def test_prompts_without_enough_answers_are_left_out_with_them() -> None:
    prompt = Prompt("p", text="q", source_id="f:1")
    alone = make_candidate("p", "one answer all by itself", {"source": "a"})
    chosen, left = choose([prompt], {"p": [alone]}, recipe(candidates={"min_words": 1}))
    assert chosen == {}
    assert [r.record_id for r in left] == ["p", alone.candidate_id]
    assert choose([replace(prompt, prompt_id="x")], {}, recipe())[1][0].reason.startswith("0 usable answers")


def test_poor_answers_take_the_places_of_good_ones() -> None:
    prompt = Prompt("p", text="How do you do?", source_id="f:1")
    names = ("ann", "bo", "cy", "di", "ed", "flo")
    answers = [make_candidate("p", f"{n} says that {n} is fine, and that {n} has 3 cats and 2 dogs.", {"source": n}) for n in names]
    mine = recipe(candidates={"min_words": 1, "keep": 4}, negatives={"share": 1.0, "each": 2})
    chosen, left = choose([prompt], {"p": answers}, mine)
    assert len(chosen["p"]) == 4
    assert sum("negative" in c.origin for c in chosen["p"]) == 2
    assert sum("most different ones" in r.reason for r in left) == 4
