"""TRL's side of a comparison: a script for the interpreter that TRL is installed in. It needs nothing of Keel but two files beside it.

python trl_side.py FOLDER RESULT
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any


def beside(name: str) -> ModuleType:
    """A file of this folder as a module: the interpreter may know no Keel."""
    spec = importlib.util.spec_from_file_location(f"keel_bench_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


clock_file, workload_file = beside("clock"), beside("workload")
ROWS_AT_ONCE = 8  # per_device_train_batch_size, TRL's default


def main(argv: list[str]) -> None:
    folder, out = Path(argv[0]), Path(argv[1])
    work, rows, order = workload_file.read(folder)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(work.threads)
    clock = clock_file.Clock()
    texts = [{name: workload_file.as_text(ids) for name, ids in rows[i].items()} for part in order for i in part]
    with tempfile.TemporaryDirectory() as scratch:
        trainer = {"rl": grpo, "dpo": dpo, "sft": sft, "reward": reward}[work.verb](work, folder / workload_file.MODEL, texts, scratch)
        tokens = watch(trainer, work, clock)
        loaded = clock_file.resident_mb()
        trainer.train()
    found = {**clock.medians(), "peak_mb": clock_file.peak_mb(), "loaded_mb": loaded, "tokens": tokens[1:]}
    if torch.cuda.is_available():
        found["gpu_peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
    out.write_text(json.dumps(found))


# ---------------------------------------------------------------------------------------------------------------------- trainers


def settings(work: Any, scratch: str) -> dict[str, Any]:
    """What all trainers are told: the same optimizer, rate, clipping and precision as Keel's side; data in the given order."""
    import torch

    at_once = min(ROWS_AT_ONCE, work.batch)
    while work.batch % at_once:
        at_once -= 1
    return {
        "output_dir": scratch,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": work.batch // at_once,
        "max_steps": work.steps + 1,
        "learning_rate": workload_file.LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": work.model.dtype == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),  # without it bf16 is refused where there is no GPU
        "gradient_checkpointing": False,  # TRL's default would recompute every layer
        "seed": work.seed,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def parts(model: Path) -> tuple[Any, Any]:
    """The model, and its tokenizer."""
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    return AutoModelForCausalLM.from_pretrained(model, dtype="float32"), PreTrainedTokenizerFast.from_pretrained(model)


def grpo(work: Any, model: Path, texts: list[dict[str, str]], scratch: str) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]

    policy, tokenizer = parts(model)
    config = GRPOConfig(
        **settings(work, scratch),
        num_generations=work.group,
        max_completion_length=work.completion,
        generation_kwargs={"min_new_tokens": work.completion},
        temperature=1.0,
        beta=work.kl,
        loss_type="dapo",
        shuffle_dataset=False,
    )

    def rewards(completions: list[str], **_: Any) -> list[float]:
        return [workload_file.text_reward(text) for text in completions]

    data = Dataset.from_list(texts)
    return GRPOTrainer(model=policy, reward_funcs=rewards, args=config, train_dataset=data, processing_class=tokenizer)


def dpo(work: Any, model: Path, texts: list[dict[str, str]], scratch: str) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer  # pyright: ignore[reportMissingImports]

    policy, tokenizer = parts(model)
    config = DPOConfig(**settings(work, scratch), beta=workload_file.BETA, max_length=None, train_sampling_strategy="sequential")
    pairs = Dataset.from_list([{**text, "prompt": text["prompt"] + " "} for text in texts])
    return DPOTrainer(model=policy, args=config, train_dataset=pairs, processing_class=tokenizer)


def sft(work: Any, model: Path, texts: list[dict[str, str]], scratch: str) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    policy, tokenizer = parts(model)
    config = SFTConfig(**settings(work, scratch), max_length=None, train_sampling_strategy="sequential")
    return SFTTrainer(model=policy, args=config, train_dataset=Dataset.from_list(texts), processing_class=tokenizer)


def reward(work: Any, model: Path, texts: list[dict[str, str]], scratch: str) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
    from trl import RewardConfig, RewardTrainer  # pyright: ignore[reportMissingImports]

    scorer = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype="float32")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    config = RewardConfig(**settings(work, scratch), max_length=None, train_sampling_strategy="sequential")
    pairs = Dataset.from_list([{side: f"{text['prompt']} {text[side]}" for side in ("chosen", "rejected")} for text in texts])
    return RewardTrainer(model=scorer, args=config, train_dataset=pairs, processing_class=tokenizer)


# --------------------------------------------------------------------------------------------------------------------- measuring


def watch(trainer: Any, work: Any, clock: Any) -> list[int]:
    """Time every optimizer step from its first micro-batch to the end of its update. Returns the counts of tokens, filled step by step."""
    from transformers import TrainerCallback

    tokens: list[int] = []
    accumulated = trainer.args.gradient_accumulation_steps
    training_step, done = trainer.training_step, [0]

    def step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if done[0] % accumulated == 0:
            tokens.append(0)
            clock.start()
        done[0] += 1
        if work.verb != "rl":
            tokens[-1] += count(work, inputs)
        return training_step(model, inputs, *args, **kwargs)

    trainer.training_step = step
    if work.verb == "rl":
        count_samples(trainer, tokens)
        clock.part(trainer, "_generate_single_turn", "rollout_s")
        clock.part(trainer, "_calculate_rewards", "reward_s")
        clock.part(trainer, "_generate_and_score_completions", "rollout_reward_reference_s")
    clock.part(trainer, "compute_loss", "loss_s")
    clock.part(trainer.accelerator, "backward", "backward_s")

    class Steps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.stop(state.global_step - 1)

    trainer.add_callback(Steps())
    return tokens


def count(work: Any, inputs: Any) -> int:
    """Tokens of a micro-batch as ``workload.count_tokens`` counts them."""
    if work.verb == "sft":
        return int((inputs["labels"][:, 1:] != -100).sum())
    return int(inputs["completion_mask" if work.verb == "dpo" else "attention_mask"].sum())


def count_samples(trainer: Any, tokens: list[int]) -> None:
    """Add what a generation sampled to the step's count."""
    generate = trainer._generate_and_score_completions

    def counted(*args: Any, **kwargs: Any) -> Any:
        output = generate(*args, **kwargs)
        tokens[-1] += int(output["completion_mask"].sum())
        return output

    trainer._generate_and_score_completions = counted


if __name__ == "__main__":
    main(sys.argv[1:])
