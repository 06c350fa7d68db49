"""GRPO from scratch: reinforcement learning of a language model in one file, with torch and transformers only.

    python examples/grpo_from_scratch.py        # trains a tiny model on a toy reward and prints the reward of every step

The method is Group Relative Policy Optimization (Shao et al. 2024, arXiv:2402.03300; "eq." and "section" below are that paper's):

1. Draw several answers to the same prompt and give each a reward.
2. Make the answers that did better than their siblings more likely and the others less. The group itself is the yardstick, so no second
   network has to learn what a prompt is worth.
3. Hold on gently to the model that training started from: a reward is a proxy, and a model that may go anywhere finds its holes.

One step of training, and the functions to read in this order:

    sample_group      answers to a prompt, drawn from the model as it is now
    share_of_e        the reward: any function from an answer's tokens to a number
    advantages        how much better than its group each answer was
    answer_logprobs   how likely the model finds the answers, with gradients
    token_losses      what to minimise: policy loss + KL penalty, for each token
    train             ties them together and takes the optimizer step

Names of tensors end in their shape: G answers of a group, L tokens of a row (prompt and answer), T tokens of an answer, V vocabulary.
"""

from __future__ import annotations

import copy
import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel

Tokens = Sequence[int]


@dataclass(frozen=True)
class Settings:
    """The sizes are toys; a large model is trained with the same knobs."""

    seed: int = 0
    steps: int = 30
    samples: int = 8  # answers to each prompt: the group. Fewer make the yardstick noisy, more cost time
    max_tokens: int = 12  # an answer that has not ended by then is cut off
    clip: float = 0.2  # how far the ratio to the sampling policy may count
    kl_coef: float = 0.04  # beta of eq. 3: the price of one nat of distance to the reference (section 4.2 uses 0.04 too)
    lr: float = 5e-3  # for a model of billions of weights this would be about 1e-6
    warmup_steps: int = 2
    weight_decay: float = 0.01
    clip_norm: float = 1.0


@dataclass(frozen=True)
class Step:
    """What one step did."""

    reward: float  # mean over all answers: the number to watch
    loss: float
    grad_norm: float  # before clipping
    answers: Mapping[str, list[list[int]]]  # by prompt: the tokens of each answer


def make_model(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """A model with random weights, in float32 and without dropout: what is drawn and what is trained must be the same distribution."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()


# ---------------------------------------------------------------------------------------------------------------- drawing answers
# Random numbers come from a hash, not from a generator: what decides token t of an answer is a function of (seed, prompt, step, sample, t)
# and of nothing else. A run that was stopped draws the same answers when it goes on, and so does another program with the same hash.

BITS_64 = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, the stride of the generator splitmix64


def answer_key(*parts: str | int) -> int:
    """64 bits that identify an answer. Type and length of each part go in first, so that ("ab",) and ("a", "b") are different keys."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        content = str(part).encode()
        state.update((b"s" if isinstance(part, str) else b"i") + len(content).to_bytes(8, "little") + content)
    return int.from_bytes(state.digest(), "little")


def scramble(x: int) -> int:
    """The mixing function of splitmix64: one bit changed in x changes about half of the bits of the result."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & BITS_64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & BITS_64
    return x ^ (x >> 31)


def uniform(key: int, position: int) -> float:
    """The number in [0, 1) that decides token ``position`` of the answer ``key``: 53 bits, as many as a float64 holds."""
    start = scramble((key + GOLDEN) & BITS_64)
    return (scramble((start + (position + 1) * GOLDEN) & BITS_64) >> 11) * 2.0**-53


@torch.no_grad()
def sample_group(model: PreTrainedModel, prompt: Tokens, keys: Sequence[int], end_tokens: Tokens, max_tokens: int) -> list[list[int]]:
    """One answer for each key, its end token included: to end is a decision of the model like any other, so it is trained too.

    Temperature 1 and nothing truncated, so answers come from exactly the distribution that ``answer_logprobs`` measures. Each token reads
    the whole row again, the simplest way that is right; a real sampler keeps the keys and values of what it has read.
    """
    rows_GL = torch.tensor(prompt).repeat(len(keys), 1)
    for position in range(max_tokens):
        logits_GV = model(input_ids=rows_GL, use_cache=False).logits[:, -1]
        # Inverse CDF: lay the tokens' probabilities end to end from 0 to 1, in the order of their ids, and take the one that u falls on.
        cdf_GV = torch.softmax(logits_GV, -1).double().cumsum(-1)
        u_G = torch.tensor([uniform(key, position) for key in keys], dtype=torch.float64)
        tokens_G = (cdf_GV <= (u_G * cdf_GV[:, -1])[:, None]).sum(-1)
        rows_GL = torch.cat([rows_GL, tokens_G[:, None]], 1)
    answers = rows_GL[:, len(prompt) :].tolist()
    lengths = [next((i + 1 for i, token in enumerate(answer) if token in end_tokens), max_tokens) for answer in answers]
    return [answer[:length] for answer, length in zip(answers, lengths)]  # what was drawn after an end is thrown away


# ------------------------------------------------------------------------------------------------------ learning from the answers


def advantages(rewards: Sequence[float]) -> Tensor:
    """Section 4.1.2: ``(reward - mean of the group) / deviation of the group``; all tokens of an answer share its advantage. Float [G].

    The mean makes easy and hard prompts comparable, the deviation makes the scale of the reward irrelevant. The 1e-4 is not in the paper:
    when all answers got the same reward there is nothing to learn, and it makes that 0 instead of 0 / 0.
    """
    rewards_G = torch.tensor(rewards, dtype=torch.float32).double()
    return ((rewards_G - rewards_G.mean()) / (rewards_G.std() + 1e-4)).float()


def answer_logprobs(model: PreTrainedModel, prompt: Tokens, answers: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """Log-probability of each token of each answer, and a mask of the tokens that exist: both [G, T], T the longest answer's length.

    Shorter answers are padded on the right. A token attends only to what stands before it, so padding behind an answer cannot change it;
    any token will do, since the mask keeps it out of the loss.
    """
    longest = max(len(a) for a in answers)
    rows_GL = torch.tensor([[*prompt, *a, *[0] * (longest - len(a))] for a in answers])
    mask_GT = torch.tensor([[i < len(a) for i in range(longest)] for a in answers])
    # The logits at a position predict the token AFTER it: the prompt's last position predicts the answer's first token, and so on.
    logits_GTV = model(input_ids=rows_GL, use_cache=False).logits[:, len(prompt) - 1 : -1]
    tokens_GT = rows_GL[:, len(prompt) :]
    return torch.log_softmax(logits_GTV, -1).gather(-1, tokens_GT[..., None])[..., 0], mask_GT


def token_losses(logprobs_GT: Tensor, ref_logprobs_GT: Tensor, advantages_G: Tensor, settings: Settings) -> Tensor:
    """The bracket of eq. 3 with its sign turned (optimizers minimise), for each token: policy loss + beta * KL."""
    # The ratio of the policy to the one that sampled. With one update for each set of answers (as in section 4.2) the two are the same
    # model and the ratio is 1. But ``detach`` makes the divisor a constant, so the ratio has a gradient: that of log pi. What is left is
    # plain policy gradient, "advantage times gradient of log pi". The clip matters when answers are used for several updates: it stops
    # paying for a token once the policy has moved far from the one that drew it.
    ratio_GT = torch.exp(logprobs_GT - logprobs_GT.detach())
    clipped_GT = ratio_GT.clamp(1 - settings.clip, 1 + settings.clip)
    policy_GT = -torch.minimum(ratio_GT * advantages_G[:, None], clipped_GT * advantages_G[:, None])
    # Eq. 4, the estimator known as k3: x - log x - 1 with x = pi_ref / pi. Never negative, 0 where both agree, and its mean over the
    # policy's own samples is KL(pi || pi_ref). Its gradient, taken on given samples as here, is that of KL(pi_ref || pi): another distance,
    # which pulls to the same place.
    log_x_GT = ref_logprobs_GT - logprobs_GT
    kl_GT = torch.exp(log_x_GT) - log_x_GT - 1
    return policy_GT + settings.kl_coef * kl_GT


def mean_of_sequences(values_GT: Tensor, mask_GT: Tensor) -> Tensor:
    """The two sums of eq. 3: mean over each answer's own tokens (1 / |o_i|), then mean over answers (1 / G).

    So a long answer counts no more than a short one, and each of its tokens less: a choice with consequences for how long answers grow.
    """
    return ((values_GT * mask_GT).sum(1) / mask_GT.sum(1)).mean()


def make_optimizer(model: PreTrainedModel, settings: Settings) -> torch.optim.Optimizer:
    """AdamW. Matrices decay towards zero; norms, biases and the two tables of tokens do not: for those, smaller is not simpler."""
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    decayed = [p for p in model.parameters() if p.dim() >= 2 and id(p) not in tables]
    plain = [p for p in model.parameters() if p.dim() < 2 or id(p) in tables]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.999), eps=1e-8)  # ``train`` sets the rate of each step


def learning_rate(step: int, settings: Settings) -> float:
    """A short linear warm-up (at first Adam's averages know little), then half a cosine down to 0, so that the run settles."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    model: PreTrainedModel, prompts: Mapping[str, Tokens], reward: Callable[[Tokens], float], end_tokens: Tokens, settings: Settings
) -> Iterator[Step]:
    """Algorithm 1, one update for each set of answers, all prompts in every step. Trains ``model`` in place; yields what each step did."""
    reference = copy.deepcopy(model).requires_grad_(False)  # the model that training starts from, for the KL penalty
    optimizer = make_optimizer(model, settings)
    for step in range(settings.steps):
        answers, rewards = dict[str, list[list[int]]](), dict[str, list[float]]()
        for name, prompt in prompts.items():
            keys = [answer_key(settings.seed, name, step, sample) for sample in range(settings.samples)]
            answers[name] = sample_group(model, prompt, keys, end_tokens, settings.max_tokens)
            rewards[name] = [reward(answer) for answer in answers[name]]
        # All answers are drawn before anything changes. The gradients of one prompt at a time add up to that of the whole batch: groups
        # are of the same size, so the mean over prompts of the mean over their answers is the mean over all answers.
        loss = 0.0
        for name, prompt in prompts.items():
            logprobs_GT, mask_GT = answer_logprobs(model, prompt, answers[name])
            with torch.no_grad():
                ref_logprobs_GT, _ = answer_logprobs(reference, prompt, answers[name])
            losses_GT = token_losses(logprobs_GT, ref_logprobs_GT, advantages(rewards[name]), settings)
            part = mean_of_sequences(losses_GT, mask_GT) / len(prompts)
            part.backward()
            loss += part.item()
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)  # a rare huge one then does little harm
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        optimizer.step()
        optimizer.zero_grad()
        # Do not look for progress in the loss. With a ratio of 1 and advantages that sum to 0 in each group, the value of its policy part
        # is 0 whatever happens, and only its gradient means something. What shows is beta * KL, which grows as the model moves away.
        yield Step(sum(map(sum, rewards.values())) / settings.samples / len(prompts), loss, float(grad_norm), answers)


# --------------------------------------------------------------------------------------------------------------------- try it out

END, LETTERS = 0, "abcdefghijklmnopqrstuvwxyz "  # token 0 ends an answer, token i + 1 is LETTERS[i]


def share_of_e(answer: Tokens) -> float:
    """The reward: how much of the answer is the letter e."""
    return answer.count(LETTERS.index("e") + 1) / len(answer)


def main(steps: int = Settings.steps) -> None:
    """Teach a model that knows nothing to write e's: it starts at chance, one token in 28, and gets most of the way in 30 steps."""
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    settings = Settings(steps=steps)
    model = make_model(LlamaConfig(vocab_size=len(LETTERS) + 1, **size), settings.seed)
    prompts = {text: [LETTERS.index(c) + 1 for c in text] for text in ("a red tent", "an old map", "the blue sea", "my green hat")}
    for number, step in enumerate(train(model, prompts, share_of_e, [END], settings), 1):
        first = "".join("" if token == END else LETTERS[token - 1] for token in next(iter(step.answers.values()))[0])
        print(f"step {number:3d}  reward {step.reward:.3f}  loss {step.loss:+.4f}  'a red tent' -> '{first}'", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
