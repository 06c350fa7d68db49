"""How varied collected tasks are: kinds of task, lengths, languages, difficulty, errors, sources. Pure functions of records."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keel.data.text import distinct, language, word_count
from keel.feedback.candidates import similarity
from keel.types import Candidate, Prompt, Task

TASKS = ("category", "task", "task_type", "type", "subject", "domain")
DIFFICULTY = ("difficulty", "level", "grade")
ERRORS = ("error_type", "error_types", "errors")


def diversity(tasks: Sequence[Task]) -> dict[str, Any]:
    """Counts and spreads over the prompts and answers of ``tasks``, each once. A part that the data say nothing of is empty."""
    prompts = {t.prompt.prompt_id: t.prompt for t in tasks}
    answers: dict[str, dict[str, Candidate]] = {i: {} for i in prompts}
    for task in tasks:
        answers[task.prompt.prompt_id].update({c.candidate_id: c for c in task.candidates})
    every = [c for found in answers.values() for c in found.values()]
    texts = [c.text for c in every]
    far = [1.0 - mean for found in answers.values() if (mean := _likeness(list(found.values()))) is not None]
    return {
        "prompts": len(prompts),
        "tasks": len(tasks),
        "answers": len(every),
        "answers_a_prompt": dict(sorted(Counter(str(len(found)) for found in answers.values()).items())),
        "tasks_by_kind": _column(prompts.values(), TASKS),
        "languages": {"prompts": _languages(map(said, prompts.values())), "answers": _languages(texts)},
        "words": {"prompts": spread([word_count(said(p)) for p in prompts.values()]), "answers": spread([word_count(t) for t in texts])},
        "difficulty": {"by_data": _column(prompts.values(), DIFFICULTY), "words_by_third": _gradient(prompts.values(), answers)},
        "errors": {"planted": _count(c.origin.get("negative") for c in every), "by_data": _errors(prompts.values(), every)},
        "sources": _count(_source(c) for c in every),
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "distance": sum(far) / len(far) if far else None,  # mean over prompts of 1 - likeness of two of its answers
    }


def said(prompt: Prompt) -> str:
    """What the user says in a prompt."""
    return "\n".join(m.text for m in prompt.messages if m.role == "user") or (prompt.text or "")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, quartiles, most and mean; {} of nothing."""
    if not values:
        return {}
    points = np.percentile(values, [0, 25, 50, 75, 100]).tolist()
    return {**dict(zip(("least", "quarter", "half", "three_quarters", "most"), points)), "mean": float(np.mean(values))}


def _likeness(candidates: Sequence[Candidate]) -> float | None:
    pairs = list(itertools.combinations(candidates, 2))
    return sum(similarity(a.text, b.text) for a, b in pairs) / len(pairs) if pairs else None


def _column(prompts: Iterable[Prompt], names: Sequence[str]) -> dict[str, int]:
    """Values of the first of these columns that any prompt has."""
    rows = list(prompts)
    name = next((n for n in names if any(p.meta.get(n) not in (None, "") for p in rows)), None)
    return {} if name is None else _count(str(p.meta.get(name, "(none)")) for p in rows)


def _languages(texts: Iterable[str]) -> dict[str, int]:
    return _count(language(text) or "(none)" for text in texts)


def _gradient(prompts: Iterable[Prompt], answers: dict[str, dict[str, Candidate]]) -> list[float]:
    """Mean words of the answers to the shortest, middle and longest third of the prompts: a stand-in for difficulty, no measure of it."""
    order = sorted(prompts, key=lambda p: (word_count(said(p)), p.prompt_id))
    if len(order) < 3:
        return []
    cuts = [0, len(order) // 3, 2 * len(order) // 3, len(order)]
    found = [[word_count(c.text) for p in order[a:b] for c in answers[p.prompt_id].values()] for a, b in itertools.pairwise(cuts)]
    return [float(np.mean(x)) if x else 0.0 for x in found]


def _errors(prompts: Iterable[Prompt], answers: Iterable[Candidate]) -> dict[str, int]:
    """Types of errors that the data name."""
    found: list[str] = []
    for said_of in (*(p.meta for p in prompts), *(c.origin for c in answers)):
        for name in ERRORS:
            value = said_of.get(name)
            found += [str(v) for v in value] if isinstance(value, list | tuple) else [str(value)] if value not in (None, "") else []
    return _count(found)


def _source(candidate: Candidate) -> str:
    return str(candidate.origin.get("source") or candidate.origin.get("model") or "(unknown)")


def _count(values: Iterable[str | None]) -> dict[str, int]:
    return dict(Counter(v for v in values if v is not None).most_common())
