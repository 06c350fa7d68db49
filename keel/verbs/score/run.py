"""`keel score`: any file of answers by any reward, row by row."""

from __future__ import annotations

import difflib
import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from keel.core.config import load
from keel.core.errors import DataError, UserError
from keel.data.sources import RawRow
from keel.rewards.build import text_source
from keel.rewards.cache import CachedTexts, ScoreCache, identity
from keel.rewards.score import Score, SourceRow
from keel.rewards.sources.model import ModelReward
from keel.rewards.table import RewardConfig, row_of, scorer_names, scorers, scorers_of
from keel.rewards.text import Item, TextScorer
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.verbs.score.rows import check_columns, read_rows
from keel.verbs.shared.judges import check_seen

log = logging.getLogger("keel")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_AT_ONCE = 256  # rows between two steps of the progress bar


def run_score(path: str, reward: str, out: str, overrides: Sequence[str] = (), cache: str = "") -> dict[str, Any]:
    """Score every row of ``path`` and write it to ``out`` with ``score`` (null where it failed), ``reason`` and ``error``; order and rows
    as they are. Returns the distribution. Raises UserError for a reward, a file or rows that cannot be used, before anything is written."""
    config = reward_config(reward, overrides)
    if out and Path(out).resolve() == Path(path).resolve():
        raise UserError(f"--out {out} is the file that is read", "give another name: the rows are not overwritten")
    rows, items = read_rows(path)
    _check_rows(config, items)
    row = row_of(config)
    if isinstance(config, ModelReward):
        from keel.verbs.shared.text_model import ModelScorer

        judge: Any = ModelScorer.load(config)
    elif isinstance(row, SourceRow) and row.source is not None:
        judge = row.source(config, None)
    else:
        judge = text_source(config)
    check_seen([judge], [prompt for prompt, _ in items])
    version = identity(config)
    if cache:
        judge = CachedTexts(judge, ScoreCache(Path(cache), version))
    scores = _scores(judge, items)
    if out:
        _write(Path(out), rows, scores)
    found = distribution(scores)
    for line in describe(found):
        print(line)
    return {"reward": reward, "version": version, "out": out, **found}


def reward_config(reward: str, overrides: Sequence[str]) -> RewardConfig:
    """The settings that a name on the command line stands for, with overrides of their fields. Raises UserError."""
    kind, colon, rest = reward.partition(":")
    by_name, by_kind = scorers(), scorers_of()
    if colon and kind in by_kind:
        argument = by_kind[kind].argument
        assert argument is not None, "it is a row with an argument"
        if not rest:
            raise UserError(f"--reward {reward}: nothing stands after the colon", f"write {kind}:{argument.shown}")
        return load(by_kind[kind].settings, None, [f"name={kind}", f"{argument.setting}={_quoted(rest)}", *overrides])
    if reward in by_name:
        return load(by_name[reward].settings, None, [f"name={reward}", f"type={reward}", *overrides])
    near = difflib.get_close_matches(reward, [*by_name, *(f"{k}:" for k in by_kind)], 1)
    raise UserError(
        f"--reward {reward}: no such reward" + (f"; did you mean {near[0]}?" if near else ""), f"one of {', '.join(scorer_names())}"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _check_rows(config: RewardConfig, items: Sequence[Item]) -> None:
    """Raise DataError when no row at all has a column that the reward reads."""
    for column, what in config.columns():
        check_columns(items, column, what)


def _scores(judge: TextScorer, items: Sequence[Item]) -> list[Score]:
    starts = range(0, len(items), _AT_ONCE)
    scores: list[Score] = []
    for start in track(starts, "scoring", disable=len(starts) < 2 or not os.isatty(2), transient=True):
        scores += judge.judge(items[start : start + _AT_ONCE])
    return scores


def _write(path: Path, rows: Sequence[RawRow], scores: Sequence[Score]) -> None:
    lines = [
        json_line({**row.values, "score": float(s) if math.isfinite(s) else None, "reason": s.reason, "error": s.error})
        for row, s in zip(rows, scores, strict=True)
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, b"".join(lines))
    except OSError as error:
        raise DataError(f"--out {path}: cannot be written: {error.strerror}", "give another path") from None


def distribution(scores: Sequence[Score]) -> dict[str, Any]:
    """``count`` rows, ``scored`` and ``failed`` ones, mean, standard deviation (of the population), least, greatest and quantiles of the
    scored, and ``failures`` by kind (what stands before the first colon)."""
    values = np.array([float(s) for s in scores if math.isfinite(s)])
    kinds = Counter(s.error.partition(":")[0] for s in scores if not math.isfinite(s))
    whole: dict[str, Any] = {"count": len(scores), "scored": len(values), "failed": len(scores) - len(values)}
    if len(values):
        whole |= {"mean": float(values.mean()), "std": float(values.std()), "min": float(values.min()), "max": float(values.max())}
        whole["quantiles"] = {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}
    return whole | {"failures": dict(kinds.most_common())}


def describe(found: dict[str, Any]) -> list[str]:
    """The same in lines for people."""
    lines = [f"{found['count']} rows, {found['scored']} scored, {found['failed']} failed"]
    if found["scored"]:
        lines.append(f"mean {found['mean']:.4g}, std {found['std']:.4g}, from {found['min']:.4g} to {found['max']:.4g}")
        lines.append("quantiles: " + ", ".join(f"{q}: {v:.4g}" for q, v in found["quantiles"].items()))
    lines += [f"failed {n}x: {kind}" for kind, n in found["failures"].items()]
    return lines
