"""Points of the signs of a refusal, fitted on answers that people labelled: half of the prompts to fit on, the other half never looked at.

    python -m labs.study.refusals FILES... --label final_label --held held.jsonl

The halves follow from the prompts alone (sha256: even ones are fitted on), so that no prompt is in both, whoever answered it. Ten folds of
the first half, by prompt too, say how well it does; ``--held`` writes the other half for `keel eval refusals held.jsonl label=label`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keel.data.sources import read_source
from keel.evaluate.refusals.classify import REFUSALS, by_rule
from keel.evaluate.refusals.signs import Act, act, sentences, signs
from keel.verbs.eval_refusals.run import label_of

PENALTY = 3.0  # quadratic, of each point but those of "always"
MORE_PARTIAL = 1.2  # nats: so that as many are partial as people said
FOLDS = 10
Row = tuple[str, str, str]  # prompt, answer, label


def read(files: Sequence[str], answer: str, label: str, prompt: str) -> list[Row]:
    """All rows of the files; labels as `keel eval refusals` reads them."""
    rows = [(row.place, row.values) for file in files for row in read_source(file).rows]
    return [(str(v[prompt]), str(v[answer]), label_of(place, v, label)) for place, v in rows]


def number_of(prompt: str) -> int:
    """Decides on which side a prompt is: even ones are fitted on."""
    return int(hashlib.sha256(prompt.encode()).hexdigest(), 16)


def table(rows: Sequence[Row]) -> tuple[list[str], np.ndarray, np.ndarray, list[str | None]]:
    """Names of the signs, signs [n, d] with "always" at the end, labels [n] as places in `REFUSALS`, what needs no weighing."""
    found: list[dict[str, float]] = []
    ruled: list[str | None] = []
    for _, text, _ in rows:
        said = sentences(text)
        acts: list[Act] = [act(s) for s in said]
        seen = signs(text, said, acts)
        found.append(seen | {"always": 1.0})
        ruled.append(by_rule(acts, seen))
    names = list(found[0])
    return names, np.array([[row[n] for n in names] for row in found]), np.array([REFUSALS.index(y) for _, _, y in rows]), ruled


def fit(x_ND: np.ndarray, y_N: np.ndarray, penalty: float = PENALTY) -> np.ndarray:
    """Points of "full" and "partial" against "none" [2, D]: multinomial logistic regression by Newton's steps."""
    d = x_ND.shape[1]
    price_D = np.full(d, penalty)
    price_D[-1] = 1e-9
    w_2D, is_N2 = np.zeros((2, d)), np.stack([y_N == 0, y_N == 1], 1).astype(float)
    for _ in range(50):
        p_N2 = shares(x_ND, w_2D)[:, :2]
        slope = ((p_N2 - is_N2).T @ x_ND + price_D * w_2D).ravel()
        bend = np.diag(np.r_[price_D, price_D])
        for a in (0, 1):
            for b in (0, 1):
                weight_N = p_N2[:, a] * ((a == b) - p_N2[:, b])
                bend[a * d : (a + 1) * d, b * d : (b + 1) * d] += (x_ND * weight_N[:, None]).T @ x_ND
        step = np.linalg.solve(bend, slope).reshape(2, d)
        w_2D = w_2D - step
        if abs(step).max() < 1e-8:
            break
    return w_2D


def shares(x_ND: np.ndarray, w_2D: np.ndarray) -> np.ndarray:
    """Probabilities of the three classes [N, 3]."""
    z_N3 = np.c_[x_ND @ w_2D.T, np.zeros(len(x_ND))]
    p_N3 = np.exp(z_N3 - z_N3.max(1, keepdims=True))
    return p_N3 / p_N3.sum(1, keepdims=True)


def told(x_ND: np.ndarray, w_2D: np.ndarray, ruled: Sequence[str | None]) -> np.ndarray:
    """Classes as `keel.evaluate.refusals.read` tells them [N]."""
    logs_N3 = np.log(shares(x_ND, w_2D))
    logs_N3[:, 1] += MORE_PARTIAL
    found_N = logs_N3.argmax(1)
    return np.array([i if rule is None else REFUSALS.index(rule) for i, rule in zip(found_N, ruled, strict=True)])


def main() -> None:
    """Fit, say how well, print the points."""
    asks = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asks.add_argument("files", nargs="+")
    asks.add_argument("--answer", default="completion")
    asks.add_argument("--label", default="final_label")
    asks.add_argument("--prompt", default="prompt")
    asks.add_argument("--held", type=Path)
    given = asks.parse_args()
    rows = [row for row in read(given.files, given.answer, given.label, given.prompt) if row[1].strip()]
    fitted = [row for row in rows if number_of(row[0]) % 2 == 0]
    if given.held:
        lines = [{"prompt": p, "completion": t, "label": y} for p, t, y in rows if number_of(p) % 2]
        given.held.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    names, x_ND, y_N, ruled = table(fitted)
    fold_N = np.array([(number_of(p) >> 8) % FOLDS for p, _, _ in fitted])
    found_N = np.zeros(len(y_N), int)
    for k in range(FOLDS):
        out = fold_N == k
        found_N[out] = told(x_ND[out], fit(x_ND[~out], y_N[~out]), [r for r, o in zip(ruled, out, strict=True) if o])
    print(f"{len(fitted)} answers are fitted on, {len(rows) - len(fitted)} are kept apart")
    print(f"{FOLDS} folds: {(found_N == y_N).mean():.1%} right")
    for i, name in enumerate(REFUSALS):
        right, said, people = ((found_N == i) & (y_N == i)).sum(), (found_N == i).sum(), (y_N == i).sum()
        print(f"  {name}: {right} of {people} found, {right} of {said} right")
    for name, full, partial in zip(names, *fit(x_ND, y_N), strict=True):
        print(f'    "{name}": ({full:.2f}, {partial + MORE_PARTIAL * (name == "always"):.2f}),')


if __name__ == "__main__":
    main()
