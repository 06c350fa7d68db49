"""From a file of tasks to a campaign: `keel annotate --tasks`."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from web_tools import PIXEL, make_task, with_picture

from keel.core.config import load
from keel.core.errors import ConfigError, DataError
from keel.feedback import schema
from keel.feedback.campaigns import Campaign
from keel.feedback.db import Store
from keel.feedback.rows import task_row
from keel.types import Choice, ImagePart
from keel.verbs.annotate.recipe import AnnotateRecipe
from keel.verbs.annotate.run import media_folder
from keel.verbs.annotate.tasks import Imported, choose_campaign, prepare
from keel.verbs.shared.tasks import read_tasks as tasks_of_stage
from keel.web.media import Media, mime_of, sources_of
from keel.web.protocol import page_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path}/a.db") as opened:
        yield opened


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows), encoding="utf-8")
    return path


def _take(store: Store, path: Path, *overrides: str, name: str = "shop") -> Imported:
    recipe = load(AnnotateRecipe, None, list(overrides))
    return prepare(store, Media(store, path.parent / "media"), name, path, recipe, overrides)


def test_tasks_by_their_role(store: Store, tmp_path: Path) -> None:
    known = Choice("first")
    tasks = [
        make_task(0),
        make_task(1, expected=known),
        make_task(2, expected=known, role="training"),
        make_task(3, expected=known, role="qualification"),
        make_task(4, role="work"),
    ]
    path = _write(tmp_path / "t.jsonl", [task_row(t) for t in tasks])
    assert _take(store, path, "wanted=2") == Imported({"work": 2, "gold": 1, "training": 1, "qualification": 1}, 0)
    assert _take(store, path) == Imported({}, 5)  # again: nothing twice
    campaign = store.campaign("shop")
    assert (campaign.wanted, campaign.kind, campaign.protocol) == (2, "pairwise", "pairwise-v1")
    assert store.progress("shop")["items"] == 2


def test_the_file_that_collect_writes(store: Store, tmp_path: Path) -> None:
    """It has a line for the campaign, which a store reads, and the tasks under a key."""
    campaign = {"campaign": {"name": "c", "wanted": 3, "kind": "pairwise", "protocol": "pairwise-v1", "seed": 0}}
    path = _write(tmp_path / "t.jsonl", [campaign, *({"task": task_row(make_task(i))} for i in range(3))])
    assert _take(store, path) == Imported({"work": 3}, 0)
    path = _write(tmp_path / "u.jsonl", [{"task": {"schema": 1}}])
    with pytest.raises(DataError, match=r"u\.jsonl:1"):
        _take(store, path)


def test_the_file_that_the_manager_exports(store: Store, tmp_path: Path, make_site: Any) -> None:
    """Roles and priorities that stand in the store alone come along, and so they do through a stage's reading of tasks."""
    site = make_site(3, gold=[make_task(7, expected=Choice("first"))])
    site.store.add_tasks("shop", [make_task(8, expected=Choice("first"))], role="training")
    site.store.add_tasks("shop", [make_task(9, expected=Choice("first"))], role="work", priority=2.0)
    boss = site.person("boss", "manager")
    path = _write(tmp_path / "t.jsonl", boss.get("/api/manage/shop/export?what=tasks").text.splitlines())
    assert _take(store, path) == Imported({"work": 4, "gold": 1, "training": 1}, 0)
    assert _take(store, path) == Imported({}, 6)
    asked = [select(schema.task.c[name]).order_by(schema.task.c.task_id) for name in ("task_id", "role", "urgency")]
    for query in asked:
        there, here = (s.read(lambda c, query=query: c.execute(query).scalars().all()) for s in (site.store, store))
        assert there == here
    assert [t.meta.get("role") for t in tasks_of_stage(path)] == [None, None, None, None, "training", "work"]
    with pytest.raises(DataError, match=r"u\.jsonl:1: role must be one of"):
        _take(store, _write(tmp_path / "u.jsonl", [{"task": task_row(make_task(10)), "role": "king"}]))


def test_a_task_that_stands_twice_is_taken_once_and_told(store: Store, tmp_path: Path) -> None:
    row = task_row(make_task(0))
    path = _write(tmp_path / "t.jsonl", [row, task_row(make_task(1)), row])
    assert _take(store, path) == Imported({"work": 2}, 0, 1)
    assert _take(store, path) == Imported({}, 2, 1)


def _refused(store: Store, path: Path, said: str, name: str = "shop") -> None:
    """The file is refused with these words, and nothing of it is stored: neither campaigns nor tasks nor pictures."""

    def kept() -> Any:
        there = {c.name: (c, store.task_ids(c.name)) for c in store.campaigns()}
        return there, sorted(p.name for p in (path.parent / "media").rglob("*"))

    before = kept()
    with pytest.raises(DataError, match=said):
        _take(store, path, "gold_share=0.3", name=name)
    assert kept() == before


def test_whatever_is_wrong_is_found_before_anything_is_stored(store: Store, tmp_path: Path) -> None:
    """Also in the last line of a file of several parts, and beside what the store has already."""
    many = [task_row(make_task(i)) for i in range(450)]
    path = tmp_path / "t.jsonl"
    _refused(
        store, _write(path, [*many, {**many[3], "meta": {"new": 1}}]), r"t\.jsonl:451: task secret-t3 stands at .*t\.jsonl:4 with other"
    )
    _refused(store, _write(path, [*many, task_row(with_picture(0, "gone.png"))]), r"t\.jsonl:451: .*gone\.png cannot be read")
    _take(store, _write(tmp_path / "first.jsonl", many[:2]))
    _refused(store, _write(path, [*many, task_row(make_task(900))]), r"t\.jsonl:1: task secret-t0 belongs to campaign shop", "other")
    changed = [*many[2:], {**many[1], "protocol": "pairwise-v1", "meta": {"new": 1}}]
    _refused(store, _write(path, changed), r"t\.jsonl:449: task secret-t1 is in the store with other content")
    _refused(
        store, _write(path, [task_row(make_task(900, "ranking", 3))]), r"t\.jsonl:1: is ranking by ranking-v1, the campaign shop pairwise"
    )
    assert _take(store, _write(path, many)) == Imported({"work": 448}, 2)


def test_two_prompts_under_one_id_are_refused_by_both_readers_of_tasks(store: Store, tmp_path: Path) -> None:
    one, other = make_task(0), make_task(1)
    path = _write(
        tmp_path / "t.jsonl", [task_row(one), task_row(replace(other, prompt=replace(other.prompt, prompt_id=one.prompt.prompt_id)))]
    )
    said = rf"t.jsonl:2: prompt_id '{one.prompt.prompt_id}' stands for another prompt .* than at .*t.jsonl:1"
    for read in (lambda: _take(store, path), lambda: tasks_of_stage(path)):
        with pytest.raises(DataError, match=said):
            read()
    assert store.campaigns() == ()


def test_pictures_are_compared_by_their_bytes(store: Store, tmp_path: Path) -> None:
    picture, path = tmp_path / "dot.png", _write(tmp_path / "t.jsonl", [task_row(with_picture(0, "dot.png"))])
    picture.write_bytes(PIXEL)
    _take(store, path)
    picture.write_bytes(PIXEL + b"\0")
    _refused(store, path, "pic0 is in the store with other content")
    picture.unlink()  # nothing says that it was changed
    assert _take(store, path) == Imported({}, 1)


def test_pictures_come_in_by_their_hash(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "from"
    folder.mkdir()
    (folder / "dot.png").write_bytes(PIXEL)
    url = "data:image/png;base64," + base64.b64encode(PIXEL).decode()
    path = _write(folder / "t.jsonl", [task_row(with_picture(i, s)) for i, s in enumerate(["dot.png", url])])
    _take(store, path)
    sources = set()
    for task in store.tasks(["pic0", "pic1"]):
        (part,) = (p for p in task.prompt.messages[0].content if isinstance(p, ImagePart))
        sources.add(part.source)
        assert Path(part.source).read_bytes() == PIXEL
    assert len(sources) == 1  # the same bytes once
    assert _take(store, path) == Imported({}, 2)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "holds no task"),
        (["{"], "t.jsonl:1: is no JSON"),
        ([task_row(make_task(0)), {**task_row(make_task(1)), "kind": "love"}], "t.jsonl:2: kind"),
        ([task_row(make_task(0)), task_row(make_task(1, "ranking"))], "t.jsonl:2: is ranking"),
        ([task_row(make_task(0, role="gold"))], "t.jsonl:1: expected is missing"),
        ([task_row(make_task(0, role="king"))], "t.jsonl:1: meta.role"),
        ([task_row(make_task(0)), {**task_row(make_task(1)), "more": 1}], "t.jsonl:2: more"),
    ],
)
def test_mistakes_in_a_file_are_named_before_anything_is_stored(store: Store, tmp_path: Path, rows: list[Any], said: str) -> None:
    with pytest.raises(DataError, match=said.replace(".", r"\.")):
        _take(store, _write(tmp_path / "t.jsonl", rows))
    assert store.campaigns() == ()


@pytest.mark.parametrize(
    "source", ["nowhere.png", "t.jsonl", "https://example.org/x.png", "data:image/png;base64,%%%", "data:text/plain,x"]
)
def test_what_is_no_picture_is_named(store: Store, tmp_path: Path, source: str) -> None:
    path = _write(tmp_path / "t.jsonl", [task_row(with_picture(0, source))])
    with pytest.raises(DataError, match=r"t\.jsonl:1"):
        _take(store, path)
    assert store.campaigns() == ()


def test_pictures_are_known_by_their_bytes() -> None:
    heads = [PIXEL, b"\xff\xd8\xff\xe0", b"GIF89a..", b"RIFF1234WEBPVP8 ", b"<svg xmlns", b"<html>", b"RIFF1234WAVE", b""]
    assert [mime_of(h) for h in heads] == ["image/png", "image/jpeg", "image/gif", "image/webp", "", "", "", ""]


def test_media_are_found_after_the_folder_moved(store: Store, tmp_path: Path) -> None:
    digest = Media(store, tmp_path / "old").add(PIXEL, "here")
    (tmp_path / "old").rename(tmp_path / "new")
    assert Media(store, tmp_path / "old").file(digest) is None
    found = Media(store, tmp_path / "new").file(digest)
    assert found is not None
    assert found[0].read_bytes() == PIXEL


def test_tasks_show_their_pictures_after_the_store_moved(tmp_path: Path) -> None:
    """Tasks name the places where pictures were; their names say which ones they are."""
    old = tmp_path / "old"
    old.mkdir()
    (old / "dot.png").write_bytes(PIXEL)
    with Store(f"sqlite:///{old}/a.db") as store:
        _take(store, _write(old / "t.jsonl", [task_row(with_picture(0, "dot.png"))]))
    old.rename(tmp_path / "new")
    with Store(f"sqlite:///{tmp_path}/new/a.db") as store:
        media = Media(store, tmp_path / "new" / "media")
        (source,) = sources_of(store.task("pic0"))
        digest = media.digest_of(source)
        assert digest == hashlib.sha256(PIXEL).hexdigest()
        assert media.file(digest) is not None
        assert media.digest_of(str(tmp_path / f"{'0' * 64}.png")) == ""  # a name alone makes no picture
        assert _take(store, tmp_path / "new" / "t.jsonl") == Imported({}, 1)


def test_which_campaign(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "study.jsonl"
    for name, tasks in (("", None), ("shop", None)):
        with pytest.raises(ConfigError):
            choose_campaign(store, name, tasks)
    assert choose_campaign(store, "", file) == "study"
    assert choose_campaign(store, "shop", file) == "shop"
    store.add_campaign(Campaign("one", 1, "pairwise", "v1"))
    assert choose_campaign(store, "", None) == "one"
    assert choose_campaign(store, "", file) == "one"
    store.add_campaign(Campaign("two", 1, "pairwise", "v1"))
    assert choose_campaign(store, "two", None) == "two"
    with pytest.raises(ConfigError, match="one, two"):
        choose_campaign(store, "", None)
    with pytest.raises(ConfigError, match="name"):
        choose_campaign(store, "a/b", file)


def test_settings_at_a_later_start(store: Store, tmp_path: Path) -> None:
    path = _write(tmp_path / "t.jsonl", [task_row(make_task(0))])
    (tmp_path / "g.md").write_text("# Read")
    _take(store, path, "wanted=2", "page={min_read_ms: 500, reason: required}")
    _take(store, path, "gold_share=0.2", "page.min_read_ms=900", f"guideline={tmp_path}/g.md", "disagreement=0.4")
    found = store.campaign("shop")
    assert (found.wanted, found.gold_share, found.settings.disagreement) == (2, 0.2, 0.4)
    page = page_of(found)
    assert (page.min_read_ms, page.reason) == (900, "required")
    text, weights = store.guideline(found.guideline)
    assert (text, weights["accuracy"]) == ("# Read", 40.0)
    _take(store, path, "wanted=2")  # the same: fine
    with pytest.raises(ConfigError, match="wanted is 2"):
        _take(store, path, "wanted=3")


def test_every_setting_of_the_recipe_arrives(store: Store, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "gold_share": 0.21, "repeat_share": 0.11, "lease_seconds": 77.0, "seed": 5, "pass_mark": 0.5, "right_at": 0.6, "scale": 4.0,
        "disagreement": 0.3, "repeat_gap": 9, "wanted": 4, "order": "judge_doubt", "judge_sure": 0.8, "judge_audit": 0.3,
    }  # fmt: skip
    path = _write(tmp_path / "t.jsonl", [task_row(make_task(0))])
    given["judge_labels"] = True
    _take(store, path, *(f"{k}={v}" for k, v in given.items()), "page.strength_steps=5", "page.language=zh")
    found = store.campaign("shop")
    for key, value in given.items():
        assert (getattr(found, key) if hasattr(found, key) else getattr(found.settings, key)) == value, key
    assert (page_of(found).strength_steps, page_of(found).language) == (5, "zh")
    assert set(AnnotateRecipe.model_fields) == {*given, "guideline", "weights", "page"}


@pytest.mark.parametrize(
    "page",
    [{"colour": 1}, {"min_read_ms": -1}, {"reason": "maybe"}, {"dimensions": [{"name": "a", "weight": 1, "low": 5, "high": 5}]},
     {"dimensions": [{"nam": "a"}]}, {"span_kinds": []}, {"completion_url": "javascript:alert(1)"}],
)  # fmt: skip
def test_impossible_pages_are_refused(page: dict[str, Any]) -> None:
    campaign = Campaign("c", 1, "pairwise", "v1")
    with pytest.raises(ConfigError, match="page"):
        page_of(replace(campaign, settings=replace(campaign.settings, page=page)))


def test_where_pictures_lie() -> None:
    assert media_folder("annotations.db") == Path("annotations.media")
    assert media_folder("sqlite:////data/x.db") == Path("/data/x.media")
    assert media_folder("postgresql://u@h/n") == Path("annotations.media")
