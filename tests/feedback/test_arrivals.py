"""Files that grow, repeats in them, Keel's own files, exports, and answers that are taken back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keel.core.errors import ConfigError, DataError
from keel.feedback import lineage, sql
from keel.feedback.campaigns import Campaign, ConflictError
from keel.feedback.db import Store
from keel.feedback.exchange import files, table
from keel.feedback.foreign import bring, take
from keel.feedback.interchange import retractions, write_campaign
from keel.feedback.own_files import read_files
from keel.feedback.rows import annotator_row, judgement_row, named, task_row
from keel.feedback.views import of_store
from keel.types import Annotator, Candidate, Choice, Judgement, Message, Prompt, TakenBack, Task
from keel.verbs.feedback.run import run_export


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "_PRAGMAS", (*sql._PRAGMAS, "synchronous=OFF"))


def table_of(path: Path, *votes: tuple[str, str, str]) -> Path:
    """A crowd's table: task, worker, label."""
    rows = [f"{task},Ask {task},yes to {task},no to {task},{worker},{label}" for task, worker, label in votes]
    path.write_text("\n".join(["task,prompt,left,right,worker,label", *rows]) + "\n")
    return path


def test_a_repeat_in_a_file_is_no_second_vote(tmp_path: Path) -> None:
    file = table_of(tmp_path / "v.csv", ("q", "ann", "left"), ("q", "ann", "right"), ("q", "bob", "right"))
    with Store(f"sqlite:///{tmp_path}/f.db") as store:
        bring(store, "crowd_csv", file, "c")
        view = of_store(store, "c")
        assert [c.annotator_id for c in view.comparisons] == ["crowd_csv:ann", "crowd_csv:bob"]
        assert (store.campaign("c").wanted, view.left_out) == (2, {"repeat": 1})
        extra = replace(store.judgements("c")[0], event_id="x", purpose="work", repeat=3)
        store.record([extra])
        assert len(of_store(store, "c", surplus=True).comparisons) == 2, "whatever a record says that it is for"


def test_a_grown_export_adds_what_is_new(tmp_path: Path) -> None:
    first, more = [("q", "ann", "left")], [("q", "bob", "right"), ("q", "ann", "right"), ("r", "eve", "left")]
    with Store(f"sqlite:///{tmp_path}/f.db") as store:
        bring(store, "crowd_csv", table_of(tmp_path / "monday.csv", *first), "")
        grown = table_of(tmp_path / "tuesday.csv", *first, *more)
        found = bring(store, "crowd_csv", grown, "")
        assert (found.campaigns, found.counts) == (("monday",), {"campaign": 0, "annotator": 2, "task": 1, "judgement": 3})
        assert store.campaign("monday").wanted == 2
        assert sorted(c.annotator_id for c in of_store(store, "monday").comparisons) == [f"crowd_csv:{n}" for n in ("ann", "bob", "eve")]
        assert sum(bring(store, "crowd_csv", grown, "").counts.values()) == 0
        with pytest.raises(ConflictError, match="in the campaign monday"):
            bring(store, "crowd_csv", grown, "other")


def batch_of(path: Path, *votes: tuple[str, str, str, str]) -> Path:
    """A batch of Mechanical Turk: assignment, worker, answer, seconds at work. Its votes have ids."""
    rows = [f"h,{a},{w},Ask,yes,no,{said},{seconds}" for a, w, said, seconds in votes]
    head = "HITId,AssignmentId,WorkerId,Input.prompt,Input.answer1,Input.answer2,Answer.better,WorkTimeInSeconds"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def _outcomes(store: Store) -> dict[str, str]:
    return {c.annotator_id.partition(":")[2]: c.outcome for c in of_store(store, "c").comparisons}


def test_a_vote_that_was_changed_elsewhere_is_a_correction(tmp_path: Path) -> None:
    one, two = ("1", "ann", "left", "7"), ("2", "bob", "left", "7")
    with Store(f"sqlite:///{tmp_path}/f.db") as store:
        bring(store, "mturk", batch_of(tmp_path / "monday.csv", one, two), "c")
        changed = batch_of(tmp_path / "tuesday.csv", ("1", "ann", "right", "7"), two)
        found = bring(store, "mturk", changed, "c")
        assert (found.counts["judgement"], found.left_out) == (1, ())
        assert _outcomes(store) == {"ann": "second", "bob": "first"}
        assert (store.progress("c")["votes"], store.campaign("c").wanted) == (2, 2), "counted once"
        first, _, correction = store.judgements("c")
        assert (correction.replaces, correction.purpose, correction.repeat) == (first.event_id, "work", 0)
        assert sum(bring(store, "mturk", changed, "c").counts.values()) == 0, "the same file again changes nothing"
        third = bring(store, "mturk", batch_of(tmp_path / "wednesday.csv", ("1", "ann", "tie", "7"), two), "c")
        assert (third.counts["judgement"], _outcomes(store)["ann"]) == (1, "tie")
        assert store.judgements("c")[-1].replaces == correction.event_id, "of the one that stands"


def test_what_is_beside_a_vote_stays_and_is_told(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path}/f.db") as store:
        bring(store, "mturk", batch_of(tmp_path / "a.csv", ("1", "ann", "left", "7")), "c")
        found = bring(store, "mturk", batch_of(tmp_path / "b.csv", ("1", "ann", "left", "9")), "c")
        assert (found.counts["judgement"], [x.reason for x in found.left_out]) == (
            0,
            ["is there with another time at work or other columns beside it; what is stored stays"],
        )
        assert store.judgements("c")[0].active_ms == 7000


def test_a_repeat_that_was_changed_stays_a_repeat(tmp_path: Path) -> None:
    one, again = ("1", "ann", "left", "7"), ("2", "ann", "left", "7")
    with Store(f"sqlite:///{tmp_path}/f.db") as store:
        bring(store, "mturk", batch_of(tmp_path / "a.csv", one, again), "c")
        assert bring(store, "mturk", batch_of(tmp_path / "b.csv", one, ("2", "ann", "right", "7")), "c").counts["judgement"] == 1
        last = store.judgements("c")[-1]
        assert (last.purpose, last.repeat, _outcomes(store)) == ("repeat", 1, {"ann": "first"})


def test_a_vote_that_was_changed_back_is_not_lost_in_silence(tmp_path: Path) -> None:
    """Without a time nobody knows which file is the older one: what stands stays, and that is told."""
    left, right = ("1", "ann", "left", "7"), ("1", "ann", "right", "7")
    with Store(f"sqlite:///{tmp_path}/f.db") as store:
        for name, vote in (("a", left), ("b", right)):
            bring(store, "mturk", batch_of(tmp_path / f"{name}.csv", vote), "c")
        found = bring(store, "mturk", batch_of(tmp_path / "c.csv", left), "c")
        assert (found.counts["judgement"], _outcomes(store)) == (0, {"ann": "second"})
        assert ["says what was corrected since" in x.reason for x in found.left_out] == [True]
        head = "HITId,AssignmentId,WorkerId,SubmitTime,Input.prompt,Input.answer1,Input.answer2,Answer.better,WorkTimeInSeconds"
        later = tmp_path / "d.csv"
        later.write_text(f"{head}\nh,1,ann,2026-11-30T10:00:00Z,Ask,yes,no,left,7\n")
        assert bring(store, "mturk", later, "c").counts["judgement"] == 1, "a later time says that it is a correction"
        assert _outcomes(store) == {"ann": "first"}


PAIR = (Candidate("a", "one"), Candidate("b", "two"))
QUESTION = Prompt("p", (Message("user", "?"),), source_id="f:1")
TASK = named(Task("", QUESTION, PAIR, "pairwise", "pairwise-v1"))


@pytest.mark.parametrize("lead", [[], [{"campaign": {"name": "shop", "wanted": 2, "kind": "pairwise", "protocol": "pairwise-v1"}}]])
@pytest.mark.parametrize("campaign", ["", "mine"])
def test_keels_own_files_of_tasks_are_read(tmp_path: Path, lead: list[Any], campaign: str) -> None:
    bare = task_row(TASK)
    rows = [*lead, {"priority": 2.0, "task": bare}] if lead else [bare]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(r, indent=None, separators=(" , ", " : ")) + "\n" for r in rows))
    with Store(f"sqlite:///{tmp_path}/f.db") as store:
        new = read_files(store, [tmp_path / "tasks.jsonl"], campaign)
        name = campaign or ("shop" if lead else "tasks")
        assert (new["campaign"], new["task"], store.task_ids(name)) == (1, 1, (TASK.task_id,))
        assert not any(read_files(store, [tmp_path / "tasks.jsonl"], campaign).values()), "nothing is new the second time"


def judged(store: Store, *who: str, wanted: int = 3) -> None:
    store.add_campaign(Campaign("c", wanted, "pairwise", "pairwise-v1"))
    store.add_tasks("c", [TASK])
    for name in who:
        store.add_annotator(Annotator(name, "person"))
        said = Judgement(f"e-{name}", TASK.task_id, name, "work", Choice("first"), (0, 1), "pairwise-v1", "2026-11-29T12:00:00Z")
        store.record([said])


def test_what_keel_writes_keel_reads(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path}/f.db") as store, Store(f"sqlite:///{tmp_path}/g.db") as other:
        judged(store, "ann", "bob")
        table.write("keel", take(store, "c"), tmp_path / "out.jsonl")
        new = read_files(other, [tmp_path / "out.jsonl"])
        assert (new["campaign"], new["task"], new["judgement"], new["annotator"]) == (1, 1, 2, 2)
        assert len(of_store(other, "c").comparisons) == 2


def test_a_campaign_that_is_written_and_read_says_the_same(tmp_path: Path) -> None:
    """Retracted and corrected in either order; older guidelines come along."""
    with Store(f"sqlite:///{tmp_path}/f.db") as store, Store(f"sqlite:///{tmp_path}/g.db") as other:
        task = named(replace(TASK, guideline="g1"))
        for version in ("g1", "g2", "unused"):
            store.add_guideline(version, f"Text of {version}")
        store.add_campaign(Campaign("c", 3, "pairwise", "pairwise-v1", guideline="g2"))
        store.add_tasks("c", [task])
        for n, name in enumerate(("ann", "bob", "eve")):
            store.add_annotator(Annotator(name, "person"))
            (item,) = store.next_items(name, "c")
            store.answer(name, item.handle, f"{name}-1", Choice("first"))
            if n == 0:
                store.retract(event_id="ann-1", why="a slip")
            if n < 2:
                store.answer(name, item.handle, f"{name}-2", Choice("second"), replaces=f"{name}-1")
        store.retract(event_id="bob-1", why="was corrected already: his other vote stays")
        write_campaign(store, "c", tmp_path / "out.jsonl")
        read_files(other, [tmp_path / "out.jsonl"])
        found = [of_store(s, "c") for s in (store, other)]
        assert [c.record_id for c in found[0].comparisons] == ["bob-2", "eve-1"]
        assert found[0] == found[1]
        assert store.progress("c") == other.progress("c") | {"leases": store.progress("c")["leases"]}
        assert (other.guideline("g1")[0], other.guideline("g2")[0]) == ("Text of g1", "Text of g2")
        with pytest.raises(DataError, match="unused"):
            other.guideline("unused")
        assert not any(read_files(other, [tmp_path / "out.jsonl"]).values()), "nothing is new the second time"
        before = retractions(store)
        assert not any(read_files(store, [tmp_path / "out.jsonl"]).values()), "nor where it came from"
        assert retractions(store) == before
        write_campaign(other, "c", tmp_path / "again.jsonl")
        assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "out.jsonl").read_text()
        store.retract(event_id="bob-2", why="this one too")
        write_campaign(store, "c", tmp_path / "later.jsonl")
        assert read_files(other, [tmp_path / "later.jsonl"])["retraction"] == 1, "a retraction of the correction itself arrives"
        assert [c.record_id for c in of_store(other, "c").comparisons] == ["eve-1"]


def test_a_judge_file_that_was_made_again_is_no_conflict(tmp_path: Path) -> None:
    """Calls out of the journal are free and the clock went on; another answer under the same id is a conflict all the same."""
    judge, meta = Annotator("j@1", "judge", "i"), {"tokens": [10, 1], "identity": "i"}

    def file(name: str, at: str, cost: float | None, chosen: str = "first") -> Path:
        call = Judgement("e", TASK.task_id, "j@1", "work", Choice(chosen), (0, 1), "pairwise-v1", at, meta={**meta, "cost": cost})  # type: ignore[arg-type]
        campaign = {"campaign": {"name": "c", "wanted": 1, "kind": "pairwise", "protocol": "pairwise-v1"}}
        rows = [campaign, {"annotator": annotator_row(judge)}, {"task": task_row(TASK)}, {"judgement": judgement_row(call)}]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    paid, free = file("paid.jsonl", "2026-11-29T12:00:00Z", 0.25), file("free.jsonl", "2026-11-29T13:00:00Z", 0.0)
    for n, order in enumerate([(paid, free), (free, paid)]):
        with Store(f"sqlite:///{tmp_path}/{n}.db") as store:
            assert [read_files(store, [path])["judgement"] for path in order] == [1, 0]
            with pytest.raises(DataError, match="other content"):
                read_files(store, [file("other.jsonl", "2026-11-29T12:00:00Z", 0.25, "second")])


def test_exports_say_the_same_of_surplus_and_of_whom_they_leave_out(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/f.db"
    with Store(url) as store:
        judged(store, "ann", "bob", "eve", wanted=2)
        assert [j.by for j in take(store, "c").judgements] == ["ann", "bob"]
        assert [j.by for j in take(store, "c", ["ann"]).judgements] == ["bob", "eve"] == list(_voters(store, ["ann"]))
        assert len(take(store, "c", surplus=True).judgements) == 3
        with pytest.raises(ConfigError, match="did you mean 'eve'"):
            take(store, "c", ["evve"])
        store.retract(annotator="ann")
        assert list(_voters(store, [])) == ["bob", "eve"], "a retraction and leaving out are one rule"
    for form in ("comparison", "training"):
        assert run_export(url, "c", str(tmp_path / "o.jsonl"), form, [])["counts"]["rows"] == 2
    with pytest.raises(DataError, match="nothing can be written"):
        run_export(url, "c", str(tmp_path / "none.jsonl"), "distilabel", [])
    assert not (tmp_path / "none.jsonl").exists()
    assert run_export(url, "c", str(tmp_path / "l.json"), "label_studio", [])["counts"] == {"judgements": 2}
    rows = run_export(url, "c", str(tmp_path / "u.jsonl"), "unpaired", [])
    assert rows["counts"]["rows"] == 2, "the winner is wanted, the loser is not"


def _voters(store: Store, without: list[str]) -> list[str]:
    return [c.annotator_id for c in of_store(store, "c", without=without).comparisons]


def test_an_answer_is_taken_back_and_given_again(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path}/f.db") as store:
        judged(store, wanted=1)
        for name in ("ann", "bob"):
            store.add_annotator(Annotator(name, "person"))
        (item,) = store.next_items("ann", "c")
        store.answer("ann", item.handle, "one", Choice("first"))
        assert store.progress("c")["votes"] == 1
        for _ in range(2):  # sent twice, stored once
            store.take_back("ann", item.handle, "back", "one")
        assert (store.progress("c")["votes"], store.progress("c")["leases"], of_store(store, "c").left_out) == (
            0,
            1,
            {"replaced": 1, "taken back": 1},
        )
        assert [i.handle for i in store.next_items("ann", "c")] == [item.handle], "it is hers again"
        with pytest.raises(ConflictError, match="taken back already"):
            store.take_back("ann", item.handle, "again", "back")
        store.answer("ann", item.handle, "two", Choice("second"), replaces="back")
        assert [c.record_id for c in of_store(store, "c").comparisons] == ["two"]
        assert (store.progress("c")["votes"], store.progress("c")["leases"]) == (1, 0)
        assert isinstance(store.judgements("c")[1].answer, TakenBack)


def test_lineage_finds_a_snapshot_in_a_list_of_paths() -> None:
    config = {"data": {"path": ["store:sqlite:///f.db#abc/unpaired", "more.jsonl"]}}
    run = lineage.Run(Path("r"), {"verb": "reward", "data": {"a + b": "together"}, "config": config})
    assert lineage.following([run], {"abc"}) == [run]


@pytest.mark.parametrize("through_a_link", [False, True])
def test_lineage_reads_relative_paths_as_the_run_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through_a_link: bool) -> None:
    """Asked from another folder, and through links in the names of runs or in what they read."""
    work, here = tmp_path / "work", tmp_path / "here"
    manifests: dict[str, dict[str, Any]] = {
        "runs/reward": {"verb": "reward", "data": {"votes": "abc"}},
        "runs/rl": {"verb": "rl", "config": {"rewards": [{"model": "newest/final" if through_a_link else "runs/reward/final"}]}},
        "runs/eval": {"verb": "eval", "parent": "runs/rl"},
        "runs/other": {"verb": "sft", "config": {"model": str(here / "runs" / "reward")}},
    }
    for name, manifest in manifests.items():
        (work / name).mkdir(parents=True)
        (work / name / "manifest.json").write_text(json.dumps(manifest | {"starts": [{"at": "then", "folder": str(work)}]}))
    here.mkdir()
    (work / "newest").symlink_to(work / "runs" / "reward")
    (tmp_path / "linked").symlink_to(work / "runs")
    monkeypatch.chdir(here)
    found = lineage.runs_below(tmp_path / "linked" if through_a_link else work / "runs")
    assert {r.path.name for r in lineage.following(found, {"abc"})} == {"reward", "rl", "eval"}
    assert [r.path.name for r in lineage.ancestors(found, work / "runs" / "eval")] == ["eval", "rl", "reward"]


def test_two_tools_with_one_id_are_two_people(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path}/f.db") as store:
        judged(store, "argilla:7", "label_studio:7", "argilla:a b", "argilla:a_b", "team:x", wanted=5)
        found = take(store, "c")
        apart = files.apart(found, table.FORMATS)
        assert sorted(files.foreign(a.annotator_id) for a in apart.annotators) == ["a b", "a_b", "argilla:7", "label_studio:7", "team:x"]
        table.write("potato", found, tmp_path / "project")
        again = table.read("potato", tmp_path / "project")
        assert (len(again.annotators), len(again.judgements)) == (5, 5)
