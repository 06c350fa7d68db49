"""Fifty items to try `keel annotate` on: questions of the quickstart's shop and pictures of scenes, in English and Chinese. No model.

python examples/annotate/demo.py FOLDER      # writes FOLDER/tasks.jsonl and FOLDER/scenes/
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from keel.core.json_lines import lines_of
from keel.feedback.rows import named, task_row
from keel.simulate.scenes.config import SceneConfig
from keel.simulate.scenes.write import write_scenes
from keel.types import Candidate, Choice, ImagePart, Message, Prompt, Task, TextPart

SHOP = Path(__file__).resolve().parents[2] / "recipes" / "quickstart" / "demonstrations.jsonl"
PICTURES, QUESTIONS = 25, 25
TRAINING, GOLD = 3, 4  # of the pictures: there it is known which answer is true
WHY = {
    "en": "One answer tells what is not in the picture. Look for each thing that it names.",
    "zh": "其中一个回答说了图里没有的内容。请逐一核对它提到的每样东西。",
}


def from_pictures(folder: Path, seed: int) -> Iterator[Task]:
    """A true description against one with an error planted in it."""
    write_scenes(folder / "scenes", PICTURES, seed, SceneConfig(), chinese=0.5)
    rng = random.Random(f"pictures {seed}")
    for i, line in enumerate(lines_of((folder / "scenes" / "pairs.jsonl").read_text(encoding="utf-8"))):
        row = json.loads(line)
        question = row["prompt"][0]["content"][1]["text"]
        prompt = Prompt(f"scene-{i}", (Message("user", (ImagePart(f"scenes/{row['images'][0]}"), TextPart(question))),))
        answers = [("true", row["chosen"][0]["content"]), ("planted", row["rejected"][0]["content"])]
        rng.shuffle(answers)
        better = "first" if answers[0][0] == "true" else "second"
        role = "training" if i < TRAINING else "gold" if i < TRAINING + GOLD else "work"
        meta = {"role": role} | ({"explanation": WHY} if role == "training" else {})
        yield _task(prompt, answers, None if role == "work" else Choice(better), meta)


def from_the_shop(seed: int) -> Iterator[Task]:
    """The answer that was written for a question against one that was written for another question of the same kind."""
    rows = [json.loads(line) for line in lines_of(SHOP.read_text(encoding="utf-8"))]
    rng = random.Random(f"shop {seed}")
    chinese = [r for r in rows if r["language"] == "zh"]
    english = [r for r in rows if r["language"] == "en"]
    picked = rng.sample(chinese, min(10, len(chinese)))
    picked += rng.sample(english, QUESTIONS - len(picked))
    for i, row in enumerate(picked):
        alike = [r for r in rows if r is not row and r["language"] == row["language"] and r["category"] == row["category"]]
        other = rng.choice(alike or [r for r in rows if r is not row and r["language"] == row["language"]])
        answers = [("written for it", row["messages"][-1]["content"]), ("written for another", other["messages"][-1]["content"])]
        rng.shuffle(answers)
        yield _task(Prompt(f"shop-{i}", (Message("user", row["messages"][0]["content"]),)), answers, None, {"role": "work"})


def _task(prompt: Prompt, answers: list[tuple[str, str]], expected: Choice | None, meta: dict[str, object]) -> Task:
    candidates = tuple(Candidate(f"{prompt.prompt_id}-{i}", text, {"how": how}) for i, (how, text) in enumerate(answers))
    return named(Task("", prompt, candidates, "pairwise", "pairwise-v1", expected=expected, meta=meta))


def main(folder: Path, seed: int = 0) -> int:
    """Write the folder; returns the number of tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, questions = list(from_pictures(folder, seed)), list(from_the_shop(seed))
    mixed = pictures[: TRAINING + GOLD] + [t for pair in zip(pictures[TRAINING + GOLD :], questions, strict=False) for t in pair]
    mixed += [t for t in questions if t not in mixed]
    rows = [task_row(replace(t, source_id=f"demo:{i}")) for i, t in enumerate(mixed)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return len(rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/annotate/demo.py FOLDER")
    print(f"{main(Path(sys.argv[1]))} tasks in {sys.argv[1]}")
