"""A judge that reads text alone, alone or on a panel, is refused where rows hold pictures: by name, at the start, by every way in."""

from __future__ import annotations

import ast
import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import keel.verbs
from keel.core.config import load
from keel.core.errors import DataError
from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.types import Candidate, ImagePart, Message, Prompt, Task, TextPart
from keel.verbs.judge.report import run_judge_report
from keel.verbs.judge.run import run_judge
from keel.verbs.mine.recipe import MineRecipe
from keel.verbs.mine.run import run_mine
from keel.verbs.run import RECIPES, STAGE_FUNCTIONS
from keel.verbs.score.run import run_score
from keel.verbs.sweep.run import run_sweep

pytest.importorskip("httpx")
HERE = Path(keel.verbs.__file__).parent
NAMED = r"reads text alone, and \d+ rows hold images: \S+"


def made(folder: Path) -> None:
    """Rows with pictures in all shapes, and judges of which no server is there: a call would fail otherwise than by a refusal."""
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    asked = [{"prompt": f"What is in picture {k}?", "images": [str(folder / "a.png")]} for k in range(24)]
    shapes = {
        "prompts": [{}] * 24,
        "pairs": [{"chosen": "a red square", "rejected": "none"}] * 24,
        "answers": [{"answers": ["a red square", "none"]}] * 24,
        "scored": [{"completion": "a red square"}] * 24,
    }
    for name, more in shapes.items():
        lines = (json.dumps(row | extra) + "\n" for row, extra in zip(asked, more, strict=True))
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    far = {"type": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "m", "journal": str(folder / "calls.sqlite")}
    judges = {"sees": {**far, "images": True}, "blind": far, "both": {"type": "panel", "members": ["sees", "blind"], "quorum": 1}}
    (folder / "judges.yaml").write_text(json.dumps({"judges": judges}), encoding="utf-8")
    (folder / "c.yaml").write_text("principles: [{name: kind, text: It is kind.}]", encoding="utf-8")


def stage(verb: str, *given: str) -> Callable[[Path, str], object]:
    def run(folder: Path, use: str) -> object:
        told = ["model=tiny:llama", *(x.format(d=folder, use=use) for x in given)]
        return STAGE_FUNCTIONS[verb](load(RECIPES[verb], None, told), folder / "run", "")

    return run


def judge_file(folder: Path, use: str) -> object:
    return run_judge(f"{folder}/answers.jsonl", [f"out={folder}/o.jsonl", *_flat(use)])


def judge_store(folder: Path, use: str) -> object:
    turns = (Message("user", (ImagePart(str(folder / "a.png")), TextPart("What is it?"))),)
    with Store(f"sqlite:///{folder}/f.db") as store:
        store.add_campaign(Campaign("c", 1, "pairwise", "v1"))
        pair = (Candidate("a", "one"), Candidate("b", "two"))
        store.add_tasks("c", [Task("t", Prompt("p", turns, source_id="picture-1"), pair, "pairwise", "v1")])
    return run_judge("", [f"store=sqlite:///{folder}/f.db", "campaign=c", *_flat(use)])


def report(folder: Path, use: str) -> object:
    given = dict(x.split("=") for x in _flat(use))
    return run_judge_report(f"{folder}/pairs.jsonl", given["judge"], given["judges"], "", "")


def score(kind: str) -> Callable[[Path, str], object]:
    def run(folder: Path, use: str) -> object:
        given = _flat(use)
        named = next(x for x in given if x.startswith("judge=")).removeprefix("judge=") if kind == "judge" else f"{folder}/c.yaml"
        return run_score(
            f"{folder}/scored.jsonl", f"{kind}:{named}", "", [x for x in given if kind != "judge" or not x.startswith("judge=")]
        )

    return run


def mine(folder: Path, use: str) -> object:
    rewards = f"rewards=[{{type: model, name: rm, path: 'tiny:llama'}}, {{type: judge, name: j, {use}}}]"
    given = ["model=tiny:llama", f"data={{path: {folder}/prompts.jsonl}}", rewards, "mine.rules={j: 0.5}"]
    return run_mine(load(MineRecipe, None, given), folder / "run")


def sweep(folder: Path, use: str) -> object:
    return run_sweep("tiny:llama", [f"prompts=[{folder}/prompts.jsonl]", f"rewards=[{{type: judge, name: j, {use}}}]"])


def _flat(use: str) -> list[str]:
    return [x.strip().replace(": ", "=", 1) for x in use.split(",")]


JUDGE, PAIRS = "{{type: judge, name: j, {use}}}", "{{type: judge, how: pairwise, name: j, {use}}}"
WHOLE = "{{type: constitution, name: j, path: {d}/c.yaml, {use}}}"
DATA, ASKED = "data={{path: {d}/prompts.jsonl}}", "evaluate.prompts=[{d}/prompts.jsonl]"
WAYS: dict[str, Callable[[Path, str], object]] = {
    "keel judge FILE": judge_file,
    "keel judge store=": judge_store,
    "keel judge report": report,
    "keel score judge": score("judge"),
    "keel score constitution": score("constitution"),
    "keel eval judge": stage("eval", "baseline=tiny:llama", ASKED, "judge={{{use}}}"),
    "keel mine": mine,
    "keel sweep": sweep,
    **{
        f"{name} {kind}": stage(verb, *more, f"{key}=[{reward}]")
        for name, verb, key, more in (
            ("keel rl", "rl", "rewards", (DATA,)),
            ("keel prefer online", "prefer", "online.rewards", (DATA,)),
            ("keel eval rewards", "eval", "rewards", ("baseline=tiny:llama", ASKED)),
        )
        for kind, reward in (("judge", JUDGE), ("pairs", PAIRS), ("constitution", WHOLE))
    },
}


@pytest.mark.parametrize("judge", ["blind", "both"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_refuses_by_name_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, judge: str
) -> None:
    made(tmp_path)
    for room in ("verbs.rl.build", "verbs.prefer.online", "verbs.mine.run", "verbs.sweep.run"):
        monkeypatch.setattr(f"keel.{room}.load", lambda *_, **__: pytest.fail("a model is loaded"))
    monkeypatch.setattr("keel.verbs.evaluate.run.side_of", lambda *_, **__: pytest.fail("a model is loaded"))
    with pytest.raises(DataError, match=NAMED):
        WAYS[way](tmp_path, f"judges: {tmp_path}/judges.yaml, judge: {judge}, override: {judge}")
    journal = tmp_path / "calls.sqlite"
    if journal.exists():
        with contextlib.closing(sqlite3.connect(journal)) as kept:
            tables = [name for (name,) in kept.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            assert sum(kept.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables) == 0, "nobody was asked"


def test_who_makes_rewards_looks_at_their_judges() -> None:
    """A new stage that makes rewards and forgets to ask fails here."""
    named: dict[str, set[str]] = {}
    for path in HERE.rglob("*.py"):
        names = {n.id for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Name)}
        named.setdefault(path.relative_to(HERE).parts[0], set()).update(names)
    del named["shared"]
    makers = {room for room, names in named.items() if "rewards_of" in names}
    assert makers >= {"rl", "prefer", "evaluate", "improve", "mine", "sweep"}
    assert {room for room in makers if not named[room] & {"check_seen", "check_seen_by"}} == set()
