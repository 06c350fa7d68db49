"""What a training says of its rows: rows in = rows trained + rows set aside, and what was done to them is counted."""

from __future__ import annotations

import json
from pathlib import Path

from keel.verbs.run import run_verb

STRIPS = Path(__file__).parents[1] / "render" / "templates" / "strips_thoughts.jinja"
LONG = "and more words " * 8


def turns(*said):
    roles = ("user", "assistant") * len(said)
    return [{"role": role, "content": text, **more} for role, (text, more) in zip(roles, said)]


def test_every_row_of_a_training_is_accounted_for(tmp_path):
    thought = "<think>\nhm\n</think>\n\nfour"
    rows = [
        {"messages": turns(("two?", {}), (thought, {}), ("sure?", {}), (thought, {}))},
        {"messages": turns(("three?", {}), ("bad", {"weight": 0}), ("sure?", {}), ("good", {}))},
        {"messages": turns(("four?", {}), ("bad", {"weight": 0.5}))},
        {"messages": turns(("five?", {}), ("bad", {"train": False}))},
        {"messages": turns(("six?", {}), (LONG, {}))},
        {"messages": turns(("seven?", {}), ("a<|im_end|>", {}))},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"model: tiny:llama?seed=1\ndata: {{path: {tmp_path / 'a.jsonl'}}}\nheld_out: 0\nmodel_options: {{precision: fp32}}\n"
        f"render: {{chat_template: {STRIPS}, max_completion: 60, over_long: cut_completion}}\n"
        "loop: {steps: 1, batch_size: 4, eval_every: 0, probes: 0}\nsettings: {threads: 1}\n"
    )
    summary = run_verb("sft", recipe, [f"run_dir={tmp_path / 'run'}"])
    found = summary["data"]["train"]
    assert {k: found[k] for k in ("rows", "bad", "records", "refused", "split", "untrained_turns", "answers_cut")} == {
        "rows": 6,
        "bad": 1,
        "records": 5,
        "refused": 2,
        "split": 1,
        "untrained_turns": 2,
        "answers_cut": 1,
    }
    assert summary["units"] == 4  # the first row is two: each answer behind what the model is given there
    reasons = {Path(r["source_id"]).name: r["reason"] for r in map(json.loads, (tmp_path / "run" / "refused.jsonl").open())}
    assert "nothing is left to train" in reasons["a.jsonl:4"]
    assert "control token" in reasons["a.jsonl:6"]
    config = json.loads((tmp_path / "run" / "final" / "generation_config.json").read_text())
    assert config["eos_token_id"]
    assert "ns.last" in (tmp_path / "run" / "final" / "chat_template.jinja").read_text(), "the template of the training"
