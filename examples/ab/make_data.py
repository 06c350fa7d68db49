"""Data for recipes/ab: paired verdicts of a replay, and a log of assigned users, made from a seed:
python examples/ab/make_data.py FOLDER"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from keel.evaluate.ab.assign import assign


def replay(n: int = 800, win: float = 0.5, tie: float = 0.15) -> list[dict[str, Any]]:
    """One verdict a prompt: the trained model wins more often than it loses, and is a little longer."""
    rng = random.Random(1)
    rows = []
    for i in range(n):
        u = rng.random()
        verdict = "tie" if u < tie else "dpo" if u < tie + win else "sft"
        length = round(rng.gauss(120, 30))
        rows.append({"prompt_id": f"p{i}", "verdict": verdict, "length": {"sft": length, "dpo": length + round(rng.gauss(6, 12))}})
    return rows


def online(users: int = 6_000, now: float = 0.60, new: float = 0.66) -> list[dict[str, Any]]:
    """One to four outcomes a user; users differ in how easily they are pleased."""
    rng = random.Random(2)
    rows = []
    for i in range(users):
        user = f"user-{i}"
        arm = {"control": "now", "treatment": "new"}[assign("support-assistant", user)]
        pleased = min(max(rng.gauss(now if arm == "now" else new, 0.2), 0.0), 1.0)
        for _ in range(rng.randint(1, 4)):
            row = {"user": user, "arm": arm, "outcome": int(rng.random() < pleased)}
            rows.append(row | {"refused": int(rng.random() < 0.04), "seconds": round(rng.expovariate(1 / 2.0), 2)})
    return rows


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("replay", replay()), ("online", online())):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(folder / f"{name}.jsonl", len(rows), "rows")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/ab"))
