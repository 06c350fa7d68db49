"""JSON lines end at line feeds alone: other ends of lines may stand in a text as they are, and no reader cuts a row there."""

from __future__ import annotations

import ast
import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from keel.core.json_lines import lines_in, lines_of
from keel.data.sources import read_source
from keel.evaluate import report_data
from keel.runs import logs
from keel.verbs.judge import rows as judge_rows
from keel.verbs.shared import text_rows
from keel.watch.foreign import raw_rows
from labs.study import gaming

ROOT = Path(__file__).resolve().parents[1]
ODD = "one\u2028two\u2029three\x85four"
# What else is cut by ``splitlines``, and why that is no row of JSON.
TEXTS = {
    "keel/sandbox/process.py": "Python code",
    "keel/sandbox/run.py": "words of a process",
    "keel/watch/expressions/tokens.py": "an expression",
    "keel/new/recipe.py": "YAML",
    "keel/rollout/vllm_engine.py": "words of an error",
    "keel/verbs/campaign/server.py": "words of a process",
    "keel/plan/size.py": "words of an error",
    "keel/plan/meter.py": "/proc",
    "keel/plan/machine.py": "/proc",
    "keel/plan/measured.py": "words of a process",
    "keel/rewards/reading/final.py": "an answer, as people see its lines",
    "keel/rewards/reading/lexicon.py": "a list of words",
    "keel/rewards/verifiers/choice.py": "an answer, as people see its lines",
    "keel/rewards/verifiers/code.py": "what a program printed",
    "keel/release/gates/machine.py": "words of a process",
    "keel/completion/keys.py": "a list of names",
    "keel/learner/remote.py": "words of an error",
    "keel/learner/local.py": "words of an error",
    "keel/learner/serving.py": "words of an error",
    "keel/learner/ray_cluster.py": "words of an error",
    "keel/models/owned.py": "words of an error",
    "keel/models/read_errors.py": "words of an error",
    "keel/models/prove_images.py": "words of an error",
    "keel/data/sources.py": "words of an error",
    "keel/environments/tools.py": "a docstring",
    "keel/runs/environment.py": "/proc",
    "labs/watchbench/store.py": "bytes, which have no other ends of lines",
    "labs/bench/compare.py": "words of a process, /proc",
    "labs/bench/record.py": "words of a process",
    "labs/bench/learn_against.py": "words of a process",
    "labs/bench/plan.py": "a docstring",
}
CUTTERS = {"splitlines", "iter_lines", "aiter_lines"}


def test_lines_end_at_line_feeds() -> None:
    text = f"{ODD}\n\n{ODD}\r\nlast"
    assert lines_of(text) == [ODD, "", ODD + "\r", "last"]
    assert lines_of(text + "\n") == lines_of(text)
    assert (lines_of(""), lines_of("\n"), lines_of("\n\n")) == ([], [""], ["", ""])


def test_lines_of_a_stream_are_those_of_the_text_whatever_the_pieces() -> None:
    text = f"{ODD}\n\n{ODD}\nlast"

    async def cut(size: int) -> AsyncIterator[bytes]:
        raw = text.encode()
        for at in range(0, len(raw), size):
            yield raw[at : at + size]

    async def read() -> list[list[str]]:
        return [[line async for line in lines_in(cut(size))] for size in range(1, 40)]

    assert finish(read()) == [lines_of(text)] * 39


def test_nothing_else_cuts_rows() -> None:
    """A new reader takes ``lines_of``; what cuts other text says here what it is."""
    found = set[str]()
    for file in [path for room in ("keel", "labs", "examples") for path in (ROOT / room).rglob("*.py")]:
        source = file.read_text(encoding="utf-8")
        if any(name in source for name in CUTTERS):
            uses = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute) and n.attr in CUTTERS]
            found |= {str(file.relative_to(ROOT))} if uses else set()
    assert found == set(TEXTS)


def same(name: str, rows: int) -> list[dict[str, Any]]:
    made = {"text": {"text": ODD}, "answers": {"prompt": ODD, "answers": [ODD, "b"]}, "said": {"prompt": ODD, "answer": ODD}}
    return [{**made[name], "n": i} for i in range(rows)]


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "data": ("text", lambda path: [row.values["text"] for row in read_source(str(path)).rows]),
    "texts": ("text", text_rows.texts_of),
    "judge": ("answers", lambda path: [candidates[0].text for _, candidates, _ in judge_rows._own_rows(path)]),
    "logs": ("text", lambda path: [row["text"] for row in logs.rows_of(path)]),
    "foreign logs": ("text", lambda path: [row["text"] for row in raw_rows(path.read_bytes())[0]]),
    "report": ("text", lambda path: [row["text"] for row in report_data._rows(path)]),
    "study": ("said", lambda path: [said.answer for said in gaming.read(path)]),
}


@pytest.mark.parametrize(("reader", "suffix"), [*((name, "jsonl") for name in READERS), ("data", "json")])
def test_readers_do_not_cut_texts(tmp_path: Path, reader: str, suffix: str) -> None:
    """``.json``: rows under the wrong name are read as rows."""
    name, read = READERS[reader]
    path = tmp_path / f"rows.{suffix}"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in same(name, 60)), encoding="utf-8")
    assert read(path) == [ODD] * 60


def finish(work: Any) -> Any:
    """What a coroutine returns, in a loop and a thread of its own: a browser of another test may have a loop in this one."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(asyncio.run, work).result()
