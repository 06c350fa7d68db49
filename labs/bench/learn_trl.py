"""TRL's side of the learning table: a script for the interpreter that TRL is installed in. Same start, prompts, samples, rate and rewards.

python learn_trl.py FOLDER: reads FOLDER/learn.json and FOLDER/start, writes FOLDER/trained and FOLDER/result.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from labs.bench.tasks import TASKS


def main(argv: list[str]) -> None:
    folder = Path(argv[0])
    work = json.loads((folder / "learn.json").read_text())
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(work["threads"])
    task = TASKS[work["task"]]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "start")
    model = AutoModelForCausalLM.from_pretrained(folder / "start", dtype="float32")
    shares: list[float] = []

    def reward(ids: list[list[int]], completion_ids: list[list[int]], **_: Any) -> list[float]:
        rewards = [task.reward(prompt, answer) for prompt, answer in zip(ids, completion_ids, strict=True)]
        shares.append(sum(rewards) / len(rewards))
        return rewards

    rows = [{"prompt": " ".join(tokenizer.convert_ids_to_tokens(ids)), "ids": ids} for ids in work["prompts"]]
    trainer_class, config = trainer(work, task.max_tokens, str(folder / "scratch"))
    trained = trainer_class(
        model=model, reward_funcs=reward, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    began = time.perf_counter()
    trained.train()
    seconds = time.perf_counter() - began
    trained.save_model(str(folder / "trained"))
    (folder / "result.json").write_text(json.dumps({"wall_s": seconds, "shares": shares}))


def trainer(work: dict[str, Any], max_tokens: int, scratch: str) -> tuple[Any, Any]:
    """The trainer's class and its settings: Keel's row of the same name, in TRL's words."""
    import trl  # pyright: ignore[reportMissingImports]

    common = {
        "output_dir": scratch,
        "per_device_train_batch_size": work["batch"] * work["group"],
        "gradient_accumulation_steps": 1,
        "num_generations": work["group"],
        "max_completion_length": max_tokens,
        "max_steps": work["steps"],
        "learning_rate": work["lr"],
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "temperature": 1.0,
        "gradient_checkpointing": False,
        "bf16": False,
        "seed": work["seed"],
        "shuffle_dataset": False,
        "logging_steps": 1000,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    if work["algorithm"] == "rloo":
        return trl.RLOOTrainer, trl.RLOOConfig(**common, beta=work["kl"])
    return trl.GRPOTrainer, trl.GRPOConfig(**common, beta=work["kl"], loss_type="grpo")


if __name__ == "__main__":
    main(sys.argv[1:])
