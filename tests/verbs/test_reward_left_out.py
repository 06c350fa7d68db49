"""What a reward model's data lose is named row by row: each vote of a pair that is refused, a ranking that prefers nothing."""

from __future__ import annotations

import json

from keel.data.config import DataConfig
from keel.data.dataset import load
from keel.models.tiny import make_tokenizer
from keel.render.config import RenderConfig
from keel.render.renderer import Renderer
from keel.verbs.reward.labels import read_labels
from keel.verbs.shared.labels import reward_units

LONG = "one two three four five six seven eight nine ten"


def test_each_vote_of_a_refused_pair_is_named(tmp_path):
    rows = [
        {"prompt": "a?", "candidates": c, "outcome": o, "annotator_id": f"ann{i}"}
        for i, (c, o) in enumerate([(["x", LONG], "first"), ([LONG, "x"], "second"), (["x", "y"], "first"), (["x", "y"], "second")])
    ]
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = load(DataConfig(path=str(path)))
    units, refused = reward_units(Renderer(make_tokenizer(400, []), config=RenderConfig(max_completion=8)), data)
    assert [r.source_id for r in refused] == [f"{path}:1", f"{path}:2"]
    assert {r.record_id for r in refused} == {r.record_id for r in data.records[:2]}
    assert len(units) == 1
    labels = read_labels(data)
    assert (labels.pairs, labels.votes, labels.even) == (2, 4, 1)


def test_a_ranking_without_an_order_is_named(tmp_path):
    rows = [{"prompt": "a?", "answers": ["x", "y"], "ranks": [1, 1]}, {"prompt": "b?", "answers": ["x", "y"], "ranks": [1, 2]}]
    path = tmp_path / "ranks.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    units, refused = reward_units(Renderer(make_tokenizer(400, [])), load(DataConfig(path=str(path))))
    assert len(units) == 1
    assert [(r.source_id, "share one rank" in r.reason) for r in refused] == [(f"{path}:1", True)]
