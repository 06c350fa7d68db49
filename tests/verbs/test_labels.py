"""The stage `annotate`: the real server as a process, simulated people at its API, faulty ones found, pairs with soft labels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from keel.core.config import load
from keel.core.errors import ConfigError, DataError, UserError
from keel.data.config import DataConfig
from keel.data.dataset import load as load_data
from keel.feedback import snapshots
from keel.feedback import store as files
from keel.feedback.db import Store
from keel.feedback.quality.report import FAMILIES
from keel.feedback.rows import named, task_row
from keel.simulate import people as people_module
from keel.types import Pair, Task
from keel.verbs.annotate.recipe import AnnotateRecipe
from keel.verbs.campaign import run as stage
from keel.verbs.campaign.known import gold_tasks
from keel.verbs.campaign.recipe import GoldConfig, LabelRecipe
from keel.verbs.campaign.run import run_labels
from keel.verbs.campaign.server import Served, served
from keel.verbs.shared.tasks import read_tasks

DEMOS = Path(__file__).resolve().parents[2] / "recipes" / "quickstart" / "demonstrations.jsonl"


def made(kind: str, count: int) -> tuple[Task, ...]:
    config = GoldConfig(data=DataConfig(path=str(DEMOS)), count=count, kinds=[kind])  # type: ignore[list-item]
    return gold_tasks(load_data(DataConfig(path=str(DEMOS))), config, "pairwise-v1", 0)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pairs whose better answer is known to the test alone."""
    return write(tmp_path_factory.mktemp("tasks") / "tasks.jsonl", 30)


def write(path: Path, count: int) -> Path:
    work = [named(replace(t, expected=None, meta={})) for t in made("repeated", count)]
    path.write_text("".join(json.dumps(task_row(t)) + "\n" for t in work), encoding="utf-8")
    return path


def recipe(tasks: Path, *more: str) -> LabelRecipe:
    gold = f"gold={{data: {{path: {DEMOS}}}, kinds: [truncated], share: 0.25}}"
    return load(LabelRecipe, None, [f"tasks={tasks}", "people={count: 5, undo: 0.1}", gold, "repeat_share=0.1", *more])


def live(store: Store, campaign: str) -> dict[str, list[str]]:
    """Who judged which item, of the votes that count."""
    standing = store.standing(campaign)
    found: dict[str, list[str]] = {}
    for j in store.judgements(campaign):
        if j.purpose == "work" and j.event_id in standing and standing[j.event_id].counted:
            found.setdefault(j.task_id, []).append(j.by)
    return found


def test_from_tasks_to_pairs(tmp_path: Path) -> None:
    out, tasks = tmp_path / "labels", write(tmp_path / "tasks.jsonl", 60)
    summary = run_labels(recipe(tasks, "people.faulty={always_left: 1}", "people.count=6", "aggregate.method=dawid_skene"), out)
    assert (summary["items"], summary["done"], summary["votes"]) == (60, 60, 180)
    assert list(summary["retracted"]) == ["labels.sim-6"]
    assert summary["retracted"]["labels.sim-6"].startswith(FAMILIES)  # which of them speaks first hangs on who got which item
    with Store(summary["store"]) as store:
        votes = live(store, "labels")
        assert Counter(map(len, votes.values())) == {3: 60}
        assert all(len(set(who)) == 3 and "labels.sim-6" not in who for who in votes.values())
        assert [s.id for s in snapshots.snapshots(store)] == [summary["snapshot"]]
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert summary["snapshot"] == manifest["snapshot"]
    assert summary["snapshot"] in manifest["data"].values()
    pairs = load_data(DataConfig(path=str(out / "pairs.jsonl"))).of(Pair)
    assert len(pairs) == summary["pairs"] >= 55
    assert not {p.prompt.prompt_id for p in pairs} - {t.prompt.prompt_id for t in read_tasks(tasks)}
    known_items = {frozenset(c.text for c in t.candidates) for t in read_tasks(out / "tasks.jsonl") if t.expected is not None}
    assert known_items
    assert not known_items & {frozenset((p.chosen[0].text, p.rejected[0].text)) for p in pairs}
    assert all(p.rejected[0].text != p.chosen[0].text and 0.5 <= p.label <= 1 for p in pairs)
    expected = {frozenset(c.candidate_id for c in t.candidates): t for t in made("repeated", 60)}
    known = {t.prompt.prompt_id: t.candidates[t.expected.chosen == "second"].text for t in expected.values()}  # type: ignore[union-attr]
    assert sum(p.chosen[0].text == known[p.prompt.prompt_id] for p in pairs) >= 0.9 * len(pairs)
    comparisons = files.read(out / "comparisons.jsonl")
    assert len(comparisons) == summary["comparisons"] == summary["agreement"]["votes"]
    assert summary["gold"]["right"] / summary["gold"]["asked"] > 0.8
    assert summary["simulated"]["undone"] > 0
    people = json.loads((out / "people.json").read_text(encoding="utf-8"))
    assert {p["annotator"] for p in people["people"]} == {f"labels.sim-{i}" for i in range(1, 6)}
    before = (out / "summary.json").read_bytes()
    assert run_labels(recipe(tasks, "people.faulty={always_left: 1}", "people.count=6", "aggregate.method=dawid_skene"), out) == {
        **json.loads(before)
    }


def test_a_killed_stage_goes_on_and_asks_nothing_twice(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, given, asked = tmp_path / "labels", 0, people_module.Work._answer

    def until_killed(self: Any, *args: Any) -> None:
        nonlocal given
        given += 1
        if given == 41:
            raise KeyboardInterrupt
        asked(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(people_module.Work, "_answer", until_killed)
        assert run_labels(recipe(tasks), out)["interrupted"] is True
    with Store(f"sqlite:///{out / stage.STORE}") as store:
        before = store.judgements("labels")
    assert len(before) >= 40
    summary = run_labels(recipe(tasks), out)
    with Store(summary["store"]) as store:
        after = store.judgements("labels")
        assert after[: len(before)] == before
        assert len({j.event_id for j in after}) == len(after)
        assert all(len(who) == len(set(who)) == 3 for who in live(store, "labels").values())
        asked_once = Counter((j.task_id, j.by, j.purpose) for j in after if not j.replaces)
        assert max(asked_once.values()) == 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_votes(tmp_path: Path) -> None:
    tasks = write(tmp_path / "tasks.jsonl", 10)
    runs = [
        run_labels(recipe(tasks, "people.count=4", "campaign=same", f"seed={seed}"), tmp_path / str(i)) for i, seed in enumerate((1, 1, 2))
    ]
    votes = [[(c.candidates, c.outcome, c.annotator_id) for c in files.read(Path(r["file"]) / "comparisons.jsonl")] for r in runs]
    assert votes[0] == votes[1] != votes[2]


def test_pairs_of_an_earlier_stage_stand_beside_those_of_the_votes(tasks: Path, tmp_path: Path) -> None:
    more, empty = tmp_path / "more.jsonl", tmp_path / "empty.jsonl"
    row = {"prompt": "Where?", "chosen": "Here.", "rejected": "Where where where.", "origin": {"mined": "hack"}}
    more.write_text(json.dumps(row) + "\n", encoding="utf-8")
    empty.write_text("", encoding="utf-8")
    summary = run_labels(recipe(tasks, f"more_pairs=[{more}, {empty}]", "quality.retract=false"), tmp_path / "labels")
    assert summary["more_pairs"] == 1
    pairs = load_data(DataConfig(path=str(tmp_path / "labels" / "pairs.jsonl"))).of(Pair)
    assert len(pairs) == summary["pairs"] + 1
    assert pairs[-1].rejected[0].text == "Where where where."


def test_too_few_people_leave_items_open_and_say_so(tasks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = ("people={count: 3, faulty: {always_left: 1}}", "quality={rounds: 2}")
    summary = run_labels(recipe(tasks, *settings), tmp_path / "labels")
    assert summary["retracted"]
    assert summary["done"] == 0
    assert "30 of 30 items lack votes" in caplog.text


def test_persons_in_the_browser_get_a_link_and_the_stage_waits(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Persons work while the stage waits; Ctrl-C and another start keep everything."""
    out, looks = tmp_path / "labels", 0

    def work(self: Any, server: Any, most: int) -> None:
        helpers = people_module.make_people(people_module.PeopleConfig(count=3), 0)
        people_module.Work(helpers, server.base, server.invitation, self.campaign, b"x" * 16, tmp_path / "slips").until_done(most)

    waiting = stage._Stage._wait

    def wait(self: Any, server: Any) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise KeyboardInterrupt
        work(self, server, 10_000)
        waiting(self, server)

    monkeypatch.setattr(stage._Stage, "_wait", wait)
    browser = recipe(tasks, "people=browser")
    assert run_labels(browser, out)["interrupted"]
    summary = run_labels(browser, out)
    assert summary["people"] == "browser"
    assert summary["done"] == 30
    assert "people can begin: http://127.0.0.1:" in capsys.readouterr().out


def test_settings_of_the_app_arrive_whole(tasks: Path, tmp_path: Path) -> None:
    """However long they are, and whatever is in them."""
    kinds = [f"a kind with a long name, number {i}: so it is" for i in range(20)]
    page = {"span_kinds": [*kinds, "\u2028 \x85 \U0001f642 é \"'\\\n#{}"], "completion_code": "1e5", "reason": "off", "language": "zh"}
    given = load(LabelRecipe, None, [f"tasks={tasks}"]).model_copy(update={"app": {"page": page, "pass_mark": 1e-7}})
    overrides = stage._Stage(given, tmp_path, "c", "sqlite://")._overrides()
    assert not any("\n" in text for text in overrides)
    arrived = load(AnnotateRecipe, None, overrides)
    assert {name: getattr(arrived.page, name) for name in page} == page
    assert arrived.pass_mark == 1e-7


@pytest.mark.parametrize("people", ["people=browser", "people={count: 3}"])
def test_a_server_that_dies_ends_the_stage_with_its_words(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, people: str
) -> None:
    name = "_wait" if "browser" in people else "_simulate"
    work = getattr(stage._Stage, name)

    def killed(self: Any, *args: Any) -> Any:
        server = next(x for x in args if isinstance(x, Served))
        server.log_file.write_text("no room for votes\n", encoding="utf-8")
        server.process.kill()
        server.process.wait()
        return work(self, *args)

    monkeypatch.setattr(stage._Stage, name, killed)
    monkeypatch.setattr(stage, "Work", partial(people_module.Work, make_client=partial(people_module.Client, wait=lambda _: None)))
    with pytest.raises(UserError, match=r"ended before all was done \(exit code -9: no room for votes\)"):
        run_labels(recipe(tasks, people), tmp_path / "labels")


def test_mistakes_are_told_with_what_to_do(tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"only 2 people"):
        recipe(tasks, "people={count: 2}")
    with pytest.raises(ConfigError, match=r"app.wanted"):
        recipe(tasks, "app={wanted: 2}")
    with pytest.raises(ConfigError, match=r"without gold\.data"):
        load(LabelRecipe, None, [f"tasks={tasks}", "gold.count=3"])
    with pytest.raises(DataError, match="cannot be read"):
        run_labels(recipe(tmp_path / "none.jsonl"), tmp_path / "a")
    ranking = tmp_path / "ranking.jsonl"
    row = json.loads(tasks.read_text(encoding="utf-8").splitlines()[0])
    ranking.write_text(json.dumps({**row, "kind": "ranking", "task_id": ""}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="takes pairs"):
        run_labels(recipe(ranking), tmp_path / "b")
    ranking.write_text('{"task_id": 3}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"ranking.jsonl:1"):
        run_labels(recipe(ranking), tmp_path / "c")
    with pytest.raises(ConfigError, match=r"did not start.*guideline"):
        run_labels(recipe(tasks, "app={guideline: nowhere.md}"), tmp_path / "d")


def test_the_server_ends_with_the_block_and_when_its_starter_is_gone(tasks: Path, tmp_path: Path) -> None:
    with served(f"sqlite:///{tmp_path / 's.db'}", "c", tasks, ["wanted=2"], tmp_path / "log") as server:
        assert server.base.startswith("http://127.0.0.1:")
        assert len(server.invitation) > 30
    with pytest.raises(people_module.UserError, match="does not answer"):
        people_module.Client(server.base, wait=lambda _: None).call("GET", "/api/me")
    with Store(f"sqlite:///{tmp_path / 's.db'}") as store:  # ended cleanly: nobody holds it
        assert store.progress("c")["items"] == 30


def test_the_server_ends_when_its_starter_is_killed(tasks: Path, tmp_path: Path) -> None:
    """The log is a pipe: it ends when nobody holds it any more, neither the starter nor the server."""
    log, ended = tmp_path / "log", threading.Event()
    os.mkfifo(log)
    reader = threading.Thread(target=lambda: (log.read_bytes(), ended.set()), daemon=True)
    reader.start()
    code = (
        "import sys; from pathlib import Path; from keel.verbs.campaign.server import served\n"
        f"with served('sqlite:///{tmp_path / 's.db'}', 'c', Path('{tasks}'), ['wanted=2'], Path('{log}')) as server:\n"
        "    print(server.base, flush=True); sys.stdin.read()\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    base = starter.stdout.readline().strip()
    assert base.startswith("http://127.0.0.1:")
    assert not ended.is_set()
    starter.kill()
    starter.wait()
    assert ended.wait(90)
    with pytest.raises(people_module.UserError, match="does not answer"):
        people_module.Client(base, wait=lambda _: None).call("GET", "/api/me")
