"""Gates over the machine that this is: speed and memory of the released model, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from keel.core.json_lines import lines_of
from keel.evaluate.statistics import Interval
from keel.release.candidate import Candidate
from keel.release.config import MemoryGate, SpeedGate
from keel.release.gates.verdict import Verdict, cannot_tell, decide, median_of
from keel.runs.environment import environment
from keel.types import Message, Prompt

_QUESTION = "What is the capital of France, and what is it known for?"
_LONGEST = 3600  # seconds


def speed(gate: SpeedGate, candidate: Candidate) -> Verdict:
    """Tokens a second, the prompt's reading included, of one answer at a time: median of the repeats, interval by order statistics."""
    found = _measured(candidate, gate.tokens, gate.repeats)
    if isinstance(found, str):
        return cannot_tell("silent", told=found)
    return decide(median_of(found["tokens_per_s"]), at_least=gate.at_least, unit="repeats", facts=_facts(candidate, gate.tokens))


def memory(gate: MemoryGate, candidate: Candidate) -> Verdict:
    """Peak of the resident memory, MB, of the whole process, Python and its libraries with it: one measurement, no interval."""
    found = _measured(candidate, gate.tokens, 1)
    if isinstance(found, str):
        return cannot_tell("silent", told=found)
    peak = float(found["peak_mb"])
    return decide(Interval(peak, peak, peak, 1), at_most=gate.at_most, why=("once",), facts=_facts(candidate, gate.tokens))


def _facts(candidate: Candidate, tokens: int) -> dict[str, Any]:
    where = environment()
    return {
        "machine": where["processor"],
        "device": where["device"],
        "threads": where["threads"],
        "engine": candidate.engine,
        "tokens": tokens,
    }


def _measured(candidate: Candidate, tokens: int, repeats: int) -> dict[str, Any] | str:
    """What the process says of itself, or why it said nothing."""
    renderer = candidate.open(candidate.spec).renderer
    ids = (
        renderer.prompt(Prompt("speed", (Message("user", _QUESTION),))).tokens_T.tolist()
        if renderer.template
        else renderer.codec.start(_QUESTION)
    )
    asked = {"spec": candidate.spec, "engine": candidate.engine, "prompt": ids, "tokens": tokens, "repeats": repeats}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "keel.release.gates.answering"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=_LONGEST,
        )
    except subprocess.TimeoutExpired:
        return f"the model did not answer within {_LONGEST} s"
    lines = lines_of(done.stdout)
    if done.returncode != 0 or not lines:
        return f"the process that answers ended with {done.returncode}: {(done.stderr.strip().splitlines() or ['without a word'])[-1]}"
    return json.loads(lines[-1])
