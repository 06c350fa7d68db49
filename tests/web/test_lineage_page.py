"""The page of lineage: from a judgement to a win rate by links, and from the run back; for managers alone."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from keel.feedback import snapshots


def run(folder: Path, verb: str, data: dict[str, str], config: dict[str, Any], summary: dict[str, Any] | None = None) -> Path:
    (folder / "checkpoints" / "4").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"verb": verb, "data": data, "config": config, "parent": ""}))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def links(page: str) -> dict[str, str]:
    return {html.unescape(name): html.unescape(to) for to, name in re.findall(r'<td><a href="([^"]+)"><code>([^<]*)</code>', page)}


def numbers(page: str) -> dict[str, int]:
    return {name: int(n) for name, n in re.findall(r'<h2 id="h-(\w+)">[^<]*: (\d+)</h2>', page)}


@pytest.fixture
def study(make_site: Any, tmp_path: Path) -> Any:
    site = make_site(3, wanted=1, runs=tmp_path / "runs")
    ann = site.person("ann <b>")
    for item in ann.items(5)["items"]:
        ann.vote(item["handle"], {"type": "choice", "chosen": "first"})
    site.snapshot = snapshots.take(site.store, "shop")
    reward = run(tmp_path / "runs" / "reward", "reward", {"store": site.snapshot.id}, {})
    run(tmp_path / "runs" / "other", "reward", {"x": "y"}, {})
    rate = {"win_rate": {"mean": 0.625, "low": 0.5, "high": 0.75}}
    site.evaluation = run(tmp_path / "runs" / "eval", "eval", {}, {"rewards": [{"path": str(reward / "final")}]}, rate)
    return site


def test_from_a_judgement_to_the_win_rate_and_back(study: Any) -> None:
    boss = study.person("boss", "manager")
    first = boss.get("/manage/shop/lineage").text
    assert list(links(first)) == [study.snapshot.id]
    seen = boss.get(links(first)[study.snapshot.id]).text
    assert numbers(seen) == {"events": 3, "pairs": 6, "snapshots": 1, "runs": 2, "checkpoints": 2, "evaluations": 1}
    event = study.snapshot.events[0]
    one = boss.get(links(seen)[event]).text
    assert numbers(one) == {"events": 1, "pairs": 2, "snapshots": 1, "runs": 2, "checkpoints": 2, "evaluations": 1}
    assert "62.5% [50.0%, 75.0%]" in one
    assert "ann &lt;b&gt;" in one, "who gave it, harmless"
    back = boss.get(links(one)[str(study.evaluation)]).text
    assert set(study.snapshot.events) == {name for name in links(back) if name in study.snapshot.events}
    assert numbers(back) == {"runs": 2, "snapshots": 1, "events": 3}
    person = boss.get("/manage/shop/lineage", params={"id": "ann <b>"}).text
    assert numbers(person)["events"] == 3


def test_what_is_not_known_is_told(study: Any) -> None:
    boss = study.person("boss", "manager")
    response = boss.get("/manage/shop/lineage", params={"id": "<script>alert(1)</script>"})
    assert response.status_code == 404
    assert "no run lies there" in response.text
    assert "<script>alert" not in response.text
    assert boss.get("/manage/nowhere/lineage").status_code == 404


def test_annotators_do_not_see_it(study: Any) -> None:
    ann = study.person("eve")
    response = ann.get("/manage/shop/lineage", params={"id": "ann <b>"})
    assert [r.status_code for r in response.history][:1] == [303]
    assert not numbers(response.text)
