"""TRL's side of a comparison with images: a script for the interpreter that TRL is installed in. It needs of Keel but files beside it.

python vlm_trl.py FOLDER RESULT
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def main(argv: list[str]) -> None:
    folder, out = Path(argv[0]), Path(argv[1])
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    side, vlm, counting = (importlib.import_module(name) for name in ("trl_side", "vlm_work", "vlm_count"))
    work, rows, order = vlm.read(folder)
    torch.set_num_threads(work.threads)
    clock, count, counts = side.clock_file.Clock(), counting.Work(), list[dict[str, float]]()
    with tempfile.TemporaryDirectory() as scratch:
        data = [row_of(folder, rows[i], work.verb) for part in order for i in part]
        trainer = {"rl": grpo, "dpo": dpo}[work.verb](side, work, folder / vlm.MODEL, data, scratch)
        tokens = watch(side, trainer, work, clock)
        for module in (trainer.model, trainer.ref_model):
            count.watch(module, head=True)
        note_work(trainer, count, counts)
        loaded = side.clock_file.resident_mb()
        trainer.train()
    found = {**clock.medians(), "peak_mb": side.clock_file.peak_mb(), "loaded_mb": loaded, "tokens": tokens[1:], "gflop": counts[-1]}
    out.write_text(json.dumps(found))


def row_of(folder: Path, row: dict[str, Any], verb: str) -> dict[str, Any]:
    """A row as TRL's data sets of images have it."""
    from PIL import Image

    found = {"prompt": [{"role": "user", "content": row["prompt"]}], "images": [Image.open(folder / f"{row['image']}.png").convert("RGB")]}
    if verb == "dpo":
        found |= {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
    return found


def parts(model: Path) -> tuple[Any, Any]:
    """The model, its vision tower and projector frozen, and its processor."""
    import transformers

    module: Any = transformers.AutoModelForImageTextToText.from_pretrained(model, dtype="float32")
    module.requires_grad_(False)
    for layer in (module.get_decoder(), module.get_output_embeddings()):
        layer.requires_grad_(True)
    return module, transformers.AutoProcessor.from_pretrained(model)


def grpo(side: Any, work: Any, model: Path, data: list[dict[str, Any]], scratch: str) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

    policy, processor = parts(model)
    config = GRPOConfig(
        **side.settings(work, scratch),
        num_generations=work.group,
        max_completion_length=work.completion,
        generation_kwargs={"min_new_tokens": work.completion},
        temperature=1.0,
        beta=work.kl,
        loss_type="dapo",
        shuffle_dataset=False,
    )

    def rewards(completions: list[Any], **_: Any) -> list[float]:
        return [side.workload_file.text_reward(str(said)) for said in completions]

    rows = Dataset.from_list(data)
    return GRPOTrainer(model=policy, reward_funcs=rewards, args=config, train_dataset=rows, processing_class=processor)


def dpo(side: Any, work: Any, model: Path, data: list[dict[str, Any]], scratch: str) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportMissingImports]

    policy, processor = parts(model)
    settings = side.settings(work, scratch)
    config = DPOConfig(**settings, beta=side.workload_file.BETA, max_length=None, train_sampling_strategy="sequential")
    return DPOTrainer(model=policy, args=config, train_dataset=Dataset.from_list(data), processing_class=processor)


def watch(side: Any, trainer: Any, work: Any, clock: Any) -> list[int]:
    """Times as for text; tokens are those of prompts, for every answer, and of answers."""
    side.count = lambda _, inputs: int(inputs["attention_mask"].sum())
    tokens: list[int] = side.watch(trainer, work, clock)
    if work.verb == "rl":
        generate = trainer._generate_and_score_completions

        def counted(*args: Any, **kwargs: Any) -> Any:
            output = generate(*args, **kwargs)
            tokens[-1] += int(output["prompt_mask"].sum())
            return output

        trainer._generate_and_score_completions = counted
    return tokens


def note_work(trainer: Any, count: Any, counts: list[dict[str, float]]) -> None:
    """The work of every optimizer step."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            count.take()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            counts.append(count.take())

    trainer.add_callback(Steps())


if __name__ == "__main__":
    main(sys.argv[1:])
