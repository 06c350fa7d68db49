"""Snapshots, files of Keel's own, retraction and lineage: from a judgement to a win rate and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keel.cli import main
from keel.core.errors import DataError
from keel.data.dataset import read as read_dataset
from keel.feedback import interchange, lineage, own_files, schema, snapshots, sql
from keel.feedback import store as files
from keel.feedback.campaign_settings import CampaignSettings
from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.types import Annotator, Candidate, Choice, Comparison, Judgement, Message, Prompt, Ranks, Scores, Task, Unpaired

P = Prompt("p", (Message("user", "?"),), source_id="f:1")
PAIR = (
    Candidate("a", "one"),
    Candidate("b", "two", turns=(Message("assistant", "two", {"tool_calls": [{"name": "f", "arguments": {}}]}),)),
)


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "_PRAGMAS", (*sql._PRAGMAS, "synchronous=OFF"))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/f.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as made:
        made.add_guideline("g1", "Be fair.")
        made.add_campaign(Campaign("c", 3, "pairwise", "v1", guideline="g1", settings=CampaignSettings(page={"x": [1]})))
        made.add_tasks("c", [Task(f"t{i}", replace(P, prompt_id=f"p{i}"), PAIR, "pairwise", "v1") for i in range(3)])
        made.add_tasks("c", [Task("g", P, PAIR, "pairwise", "v1", expected=Choice("first"))], role="gold", priority=2.0)
        for name in ("ann", "bob", "eve"):
            made.add_annotator(Annotator(name, "simulated", meta={"noise": 0.1}))
            made.record([said(f"t{i}", name) for i in range(3)])
        made.record([said("g", "ann", purpose="gold")])
        yield made


def said(task: str, by: str, chosen: str = "first", event: str = "", **more: Any) -> Judgement:
    base = Judgement(event or f"{by}-{task}", task, by, "work", Choice(chosen, 0.5), (1, 0), "v1", "2026-11-29T12:00:00Z")  # type: ignore[arg-type]
    return replace(base, **more)


def test_a_snapshot_never_changes(store: Store, url: str) -> None:
    one = snapshots.take(store, "c")
    assert snapshots.take(store, "c") == one == snapshots.get(store, one.id)
    assert len(one.events) == 9
    before = read_dataset(f"store:{url}#{one.id}")
    assert (before.fingerprint, before.layout, len(before.of(Comparison))) == (one.id, "comparison", 9)
    assert before.of(Comparison)[0].candidates == PAIR
    store.record([said("t0", "ann", "second", "new", replaces="ann-t0")])
    store.retract(annotator="bob")
    two = snapshots.take(store, "c")
    assert two.id != one.id
    assert (len(two.events), "new" in two.events, "bob-t0" in two.events) == (6, True, False)
    assert read_dataset(f"store:{url}#{one.id}").records == before.records
    assert snapshots.take(store, "c", ["eve"]).id not in (one.id, two.id)


def test_another_order_or_content_is_another_snapshot(tmp_path: Path) -> None:
    ids = set[str]()
    for i, chosen in enumerate(["first", "second", "first"]):
        with Store(f"sqlite:///{tmp_path}/{i}.db") as made:
            made.add_campaign(Campaign("c", 1, "pairwise", "v1"))
            made.add_tasks("c", [Task("t", P, PAIR, "pairwise", "v1")])
            made.add_annotator(Annotator("ann", "person"))
            made.record([said("t", "ann", chosen)])
            ids.add(snapshots.take(made, "c").id)
    assert len(ids) == 2


def test_paths_that_name_no_snapshot(store: Store, url: str) -> None:
    found = snapshots.take(store, "c")
    for bad, message in (("", "no snapshot is named"), ("#none", "'none' is not in the store"), (f"#{found.id}/x", "no part")):
        with pytest.raises(DataError, match=message):
            read_dataset(f"store:{url}{bad}")
    with pytest.raises(DataError, match="has no such rows"):
        read_dataset(f"store:{url}#{found.id}/unpaired")


def test_answers_that_are_both_bad_are_read_apart(store: Store, url: str) -> None:
    store.record([said("t0", "ann", "both_bad", "new", replaces="ann-t0")])
    found = snapshots.take(store, "c")
    assert len(read_dataset(f"store:{url}#{found.id}").records) == 8
    unwanted = read_dataset(f"store:{url}#{found.id}/unpaired").of(Unpaired)
    assert [u.answer for u in unwanted] == [c.messages for c in PAIR]
    assert not any(u.desirable for u in unwanted)


@pytest.mark.parametrize(("kind", "answer"), [("ranking", Ranks(((1,), (0,)))), ("rating", Scores(0, {"accuracy": 3.0}))])
def test_rankings_and_ratings_are_read_as_they_are(tmp_path: Path, kind: Any, answer: Any) -> None:
    with Store(f"sqlite:///{tmp_path}/x.db") as made:
        made.add_campaign(Campaign("c", 1, kind, "v1"))
        made.add_tasks("c", [Task("t", P, PAIR, kind, "v1")])
        made.add_annotator(Annotator("ann", "person"))
        made.record([said("t", "ann", answer=answer)])
        found = snapshots.take(made, "c")
        (record,) = read_dataset(f"store:sqlite:///{tmp_path}/x.db#{found.id}").records
    assert record.record_id == "ann-t"
    assert (record.ranks == (2, 1)) if kind == "ranking" else (record.scores == {"accuracy": 3.0})


def test_a_campaign_is_written_and_read_back_whole(store: Store, tmp_path: Path) -> None:
    store.record([said("t0", "ann", "second", "new", replaces="ann-t0")])
    store.retract(annotator="bob", why="spam", who="boss")
    counts = interchange.write_campaign(store, "c", tmp_path / "c.jsonl")
    assert counts == {"campaign": 1, "guideline": 1, "annotator": 3, "task": 4, "judgement": 11, "unjudged": 0, "retraction": 1}
    with Store(f"sqlite:///{tmp_path}/copy.db") as copy:
        assert own_files.read_files(copy, [tmp_path / "c.jsonl"]) == counts
        again = own_files.read_files(copy, [tmp_path / "c.jsonl"])
        assert (again["judgement"], again["retraction"]) == (0, 0)
        assert copy.judgements("c") == store.judgements("c")
        assert copy.campaign("c") == store.campaign("c")
        assert copy.annotators() == store.annotators()
        assert copy.standing("c") == store.standing("c")
        assert copy.progress("c") == store.progress("c")
        assert snapshots.take(copy, "c").id == snapshots.take(store, "c").id
        interchange.write_campaign(copy, "c", tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "c.jsonl").read_text()
    assert interchange.write_campaign(store, "c", tmp_path / "less.jsonl", ["bob"])["judgement"] == 8


def test_comparisons_become_judgements_once(tmp_path: Path, url: str) -> None:
    votes = [
        Comparison(f"{who}{i}", replace(P, prompt_id=f"p{i}"), PAIR[::-1] if i else PAIR, "first", 0.5, who, "v1", (0, 1))
        for who in ("ann", "bob")
        for i in range(2)
    ]
    votes.append(replace(votes[0], record_id="again", display_order=(1, 0)))
    files.append(tmp_path / "votes.jsonl", votes)
    with Store(url) as store:
        assert own_files.read_files(store, [tmp_path / "votes.jsonl"])["judgement"] == 5
        assert own_files.read_files(store, [tmp_path / "votes.jsonl"])["judgement"] == 0
        assert store.campaign("votes").wanted == 2
        assert [(j.by, j.purpose, j.repeat) for j in store.judgements("votes")][-1] == ("ann", "repeat", 1)
        swapped = next(j for j in store.judgements("votes") if j.by == "ann" and j.answer == Choice("second", 0.5))
        assert swapped.display_order == (1, 0), "the same text stands on the left as in the file"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"task": {"task_id": 1}}', "task_id must be str"),
        ('{"judgement": {"event_id": "e"}}', "task_id is missing"),
        ('{"campaign": {"colour": 1}}', "campaign is not complete or has an unknown field"),
        ('{"songs": 1}', "line must hold one of"),
        ("{broken", "broken JSON"),
    ],
)
def test_a_bad_line_is_named(store: Store, tmp_path: Path, line: str, message: str) -> None:
    interchange.write_campaign(store, "c", tmp_path / "c.jsonl")
    good = (tmp_path / "c.jsonl").read_text().split("\n")
    (tmp_path / "c.jsonl").write_text("\n".join([*good[:3], line, *good[3:]]))
    with Store(f"sqlite:///{tmp_path}/copy.db") as copy, pytest.raises(DataError, match=r"c\.jsonl:4") as error:
        own_files.read_files(copy, [tmp_path / "c.jsonl"])
    assert message in str(error.value)


def make_run(root: Path, name: str, verb: str, data: dict[str, str], config: dict[str, Any], parent: str = "") -> Path:
    (root / name / "checkpoints" / "step-4").mkdir(parents=True)
    (root / name / "final").mkdir()
    manifest = {"verb": verb, "data": data, "config": config, "parent": parent or None}
    (root / name / "manifest.json").write_text(json.dumps(manifest))
    return root / name


def runs(root: Path, snapshot: str, other: str) -> dict[str, Path]:
    """reward (reads the snapshot) -> rl (its reward model) -> eval (its model); dpo reads another snapshot; sft reads neither."""
    made = {"reward": make_run(root, "reward", "reward", {"votes": snapshot}, {"model": "tiny"})}
    made["rl"] = make_run(root, "rl", "rl", {"prompts": "f"}, {"rewards": [{"model": str(made["reward"] / "final")}]})
    made["eval"] = make_run(root, "eval", "eval", {}, {"model": "x"}, parent=str(made["rl"]))
    made["dpo"] = make_run(root, "dpo", "prefer", {"votes": other}, {"model": "tiny"})
    made["sft"] = make_run(root, "sft", "sft", {"rows": "f"}, {"model": "tiny", "text": "reward/final"})
    return made


def test_retraction_lists_what_saw_the_judgements(store: Store, tmp_path: Path) -> None:
    whole, less = snapshots.take(store, "c"), snapshots.take(store, "c", ["bob"])
    made = runs(tmp_path / "runs", whole.id, less.id)
    seen = lineage.affected(store, ["bob-t0"], tmp_path / "runs")
    assert seen.snapshots == (whole.id,)
    assert set(seen.runs) == {str(made[n]) for n in ("reward", "rl", "eval")}
    assert seen.evaluations == (str(made["eval"]),)
    assert str(made["rl"] / "checkpoints" / "step-4") in seen.checkpoints
    assert len(seen.checkpoints) == 6
    assert seen.pairs == ("p0:a>b", "p0:b>a")
    both = lineage.affected(store, ["ann-t0"], tmp_path / "runs")
    assert set(both.runs) == {str(made[n]) for n in ("reward", "rl", "eval", "dpo")}


def test_from_a_win_rate_back_to_its_judgements(store: Store, tmp_path: Path) -> None:
    whole = snapshots.take(store, "c")
    made = runs(tmp_path / "runs", whole.id, "none")
    before, read = lineage.events_behind(store, lineage.runs_below(tmp_path / "runs"), made["eval"])
    assert [r.path for r in before] == [made["eval"], made["rl"], made["reward"]]
    assert [s.events for s in read] == [whole.events]
    with pytest.raises(DataError, match="no run lies there"):
        lineage.ancestors([], tmp_path)


def command(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["feedback", *words, "--json"]) in (0, None)
    return json.loads(capsys.readouterr().out.strip().split("\n")[-1])


def test_the_commands(store: Store, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = command(capsys, "snapshot", "--store", url, "--campaign", "c")
    runs(tmp_path / "runs", made["id"], "none")
    assert command(capsys, "status", "--store", url)["campaigns"]["c"]["votes"] == 9
    out = str(tmp_path / "out.jsonl")
    assert command(capsys, "export", "--store", url, "--campaign", "c", "--out", out)["counts"]["judgement"] == 10
    copied = command(capsys, "import", out, "--store", f"sqlite:///{tmp_path}/copy.db")
    assert copied["new"]["judgement"] == 10
    dry = command(capsys, "retract", "bob", "--store", url, "--root", str(tmp_path / "runs"), "--dry-run")
    assert (dry["retracted"], len(dry["events"]), len(dry["runs"])) == (False, 3, 3)
    assert store.progress("c")["votes"] == 9
    done = command(capsys, "retract", "bob", "--store", url, "--root", str(tmp_path / "runs"), "--why", "spam")
    assert done["retracted"] is True
    assert store.progress("c")["votes"] == 6
    less = command(capsys, "export", "--store", url, "--campaign", "c", "--out", out, "--as", "training")
    assert less["counts"] == {"rows": 6, "left_out": {"gold": 1, "retracted": 3}}
    assert len(read_dataset(out).of(Comparison)) == 6
    seen = command(capsys, "lineage", "ann-t0", "--store", url, "--root", str(tmp_path / "runs"))
    assert seen["snapshots"] == [made["id"]]
    back = command(capsys, "lineage", str(tmp_path / "runs" / "eval"), "--store", url, "--root", str(tmp_path / "runs"))
    assert back["snapshots"][0]["events"] == list(snapshots.get(store, made["id"]).events)


def test_mistakes_at_the_command_line(store: Store, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["retract", "nobody"], ["retract"], ["export", "--campaign", "c"], ["snapshot", "--campaign", "none"]):
        assert main(["feedback", *words, "--store", url]) == 2
        assert "hint" in capsys.readouterr().err
    assert store.read(lambda c: len(c.execute(schema.retraction.select()).all())) == 0
