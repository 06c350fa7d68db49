"""`keel judge report`: a judge beside people, attacked, and put through the gate; as lines, JSON and HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keel.core.config import load
from keel.data.config import DataConfig
from keel.data.dataset import load as load_data
from keel.evaluate.judge_labels import labelled
from keel.evaluate.judge_page import page
from keel.evaluate.judge_report import JudgeReportConfig, headline, judge_report
from keel.judges.ask import check_images
from keel.judges.orders import calls_of
from keel.runs.durable import write_atomic
from keel.verbs.judge.recipe import JudgeReportRecipe
from keel.verbs.shared.judges import judge_named
from keel.verbs.shared.progress import progress


def run_judge_report(labels: str, judge: str, judges: str, json_file: str, html_file: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Measure, write, print. Raises UserError."""
    named = [f"judges={json.dumps(judges)}"] if judges else []
    config = load(JudgeReportRecipe, None, [f"labels={json.dumps(labels)}", f"judge={json.dumps(judge)}", *named, *overrides])
    made = judge_named(config.judges, config.judge)
    data = load_data(DataConfig(path=config.labels))
    rows = labelled(data.records, data.source, config.reference)
    check_images(made, ((x.question.prompt, x.question.answers) for x in rows))
    settings = JudgeReportConfig(**{name: getattr(config, name) for name in JudgeReportConfig.model_fields})
    calls = sum(len(calls_of(x.question, config.samples)) for x in rows)
    with progress(calls, "judging") as told:
        found = judge_report(made, rows, settings, data.source, told)
    found["labels"] |= {"fingerprint": data.fingerprint, "bad_rows": len(data.bad)}
    if json_file:
        write_atomic(Path(json_file), (json.dumps(found, ensure_ascii=False, indent=2) + "\n").encode())
    if html_file:
        write_atomic(Path(html_file), page(found).encode())
    for line in headline(found):
        print(line)
    return found
