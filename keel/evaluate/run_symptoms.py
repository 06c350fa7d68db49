"""Symptoms of a run of RL: each a function of its metrics that says what shows it, and since when; or nothing."""

from __future__ import annotations

import numpy as np

from keel.evaluate.run_seen import ENTROPY, FEW, KL, LENGTH, REWARD, Seen, Shows, first_true, noise, rolling

_GOLD = "eval/rewards/gold/mean"
_START = 20  # steps whose range is that of a run's beginning


def not_finite(seen: Seen) -> Shows | None:
    for name in ("loss", "grad_norm", "reward", "kl"):
        steps, values = seen.metrics.points(name)
        if (bad := ~np.isfinite(values)).any():
            return Shows(f"{name} is not finite in {int(bad.sum())} steps, first at step {steps[bad][0]:g}", float(steps[bad][0]))
    return None


def no_rewards(seen: Seen) -> Shows | None:
    steps, failed = seen.points("completions/failed_ratio")
    at = first_true(rolling(failed, 3) >= 1)
    return Shows(f"no answer got a reward from step {steps[at]:g} on", float(steps[at])) if at is not None else None


def stale(seen: Seen) -> Shows | None:
    """The limits of the rules `stale` and `sampler-apart`."""
    for name, times, more, n in (("sampling/staleness/mean", 2, 3.0, 1), ("sampling/sampling_logp_difference/mean", 3, 0.02, 3)):
        steps, values = seen.points(name)
        if len(values) > _START:
            limit = more + times * float(values[:_START].max())
            at = first_true(rolling(values[_START:], n) > limit)
            if at is not None:
                return Shows(f"{name} went above {limit:.3g} at step {steps[_START + at + n - 1]:g}", float(steps[_START + at]))
    return None


def other_prompts(seen: Seen) -> Shows | None:
    """The limits of the rule `prompts-drift`."""
    for name, share, more in (("prompts/surprise", 0.0, 0.1), ("prompts/mean_length", 0.3, 0.0)):
        steps, values = seen.points(name)
        if len(values) > _START:
            usual = float(values[:_START].mean())
            limit = share * usual + more + 4 * float(values[:_START].std(ddof=1))
            means = rolling(values[_START:], 3)
            at = first_true(np.abs(means - usual) > limit)
            if at is not None:
                return Shows(
                    f"{name} was {usual:.3g}, and is {means[at]:.3g} at step {steps[_START + at + 2]:g}", float(steps[_START + at])
                )
    return None


def lost_critic(seen: Seen) -> Shows | None:
    """The limits of the rule `critic`."""
    steps, values = seen.points("loss/value_avg")
    means = rolling(values, 3)
    if len(means) <= _START:
        return None
    so_far = np.cumsum(values)[2:] / np.arange(3, len(values) + 1)
    limit = 4 * float(means[:_START].max())
    at = first_true((means > limit) & (means > 2 * so_far))
    return (
        Shows(f"the critic's error is {means[at]:.3g} at step {steps[at + 2]:g}, above {limit:.3g}", float(steps[at]))
        if at is not None
        else None
    )


def not_updated(seen: Seen) -> Shows | None:
    """No learning rate, no gradient where there is a signal, or no signal: no group's rewards differ, after some did or from the start."""
    steps, lr = seen.points("lr")
    at = first_true(rolling((lr <= 0).astype(float), 3) >= 1)
    if at is not None:
        return Shows(f"the learning rate is 0 from step {steps[at]:g} on", float(steps[at]))
    steps, norm = seen.points("grad_norm")
    _, alike = seen.points("frac_reward_zero_std")
    signal = alike < 1 if len(alike) == len(norm) else np.full(len(norm), False)
    at = first_true(rolling(((norm <= 0) & signal).astype(float), 3) >= 1)
    if at is not None:
        return Shows(f"nothing has a gradient from step {steps[at]:g} on, and rewards differ", float(steps[at]))
    return _no_signal(seen)


def _no_signal(seen: Seen) -> Shows | None:
    steps, alike = seen.points("frac_reward_zero_std")
    reward, spread = seen.of(*REWARD), seen.of("reward_std")
    if len(alike) < FEW or len(reward) != len(alike) or len(spread) != len(alike):
        return None
    means, spreads = rolling(alike, 5), rolling(spread, 5)
    most = seen.of("reward_max")
    best = np.maximum.accumulate(most)[4:] if len(most) == len(alike) else np.full(len(means), np.inf)
    solved = reward[4:] >= best - 0.1 * np.ptp(reward)
    at = first_true((means > 0.9) & (spreads < 0.1 * max(float(spreads.max()), 1e-12)) & ~solved)
    if at is not None:
        return Shows(f"no group has different rewards from step {steps[at]:g} on, at a reward of {reward[at + 4]:.3g}", float(steps[at]))
    return None


def gap(seen: Seen) -> Shows | None:
    """The reward does not fall, and held-out answers do: their gold from its best, or where none is known their reward from the first."""
    steps, held_out = seen.points(_GOLD, "eval/gold", "eval/reward")
    if len(held_out) < 3:
        return None
    known = len(seen.of(_GOLD, "eval/gold")) > 0
    trained, reward = seen.points(*REWARD)
    spreads = seen.of("eval/rewards/gold/std", "eval/gold_std", "eval/reward_std")
    limit = (0.5 if known else 0.3) * float(spreads.max()) if len(spreads) else 0.5 * float(np.std(held_out))
    for i in range(1, len(held_out)):
        before = reward[trained <= steps[i]]
        risen = len(before) >= 5 and float(before[-5:].mean()) >= float(rolling(before, 5).max()) - 2 * noise(reward)
        best = float(held_out[: i + 1].max()) if known else float(held_out[0])
        now = float(held_out[i]) if known else float(held_out[i - 1 : i + 1].mean())
        if risen and best - now > limit and (known or i > 1) and (known or seen.change(*REWARD) >= 2):
            return Shows(f"the reward rose, held-out answers fell from {best:.3g} to {now:.3g}", float(steps[i]))
    return _apart(seen)


def _apart(seen: Seen) -> Shows | None:
    """The reward of training goes away from that of held-out answers."""
    steps, held_out = seen.points("eval/reward")
    trained, reward = seen.points(*REWARD)
    _, spread = seen.points("reward_std")
    if len(held_out) < 3 or len(reward) < FEW or not len(spread):
        return None
    limit = float(rolling(spread, 5).max()) if len(spread) >= 5 else float(spread.max())
    apart = [float(reward[trained <= s][-5:].mean()) - h for s, h in zip(steps, held_out, strict=True) if (trained <= s).sum() >= 5]
    at = first_true(np.array(apart) - apart[0] > limit) if apart else None
    if at is None:
        return None
    step = float(steps[len(steps) - len(apart) + at])
    return Shows(f"the reward of training is {apart[at]:.3g} above that of held-out answers at step {step:g}", step)


def leap(seen: Seen) -> Shows | None:
    """The limits of the rules `kl-jump` and `entropy-jump`."""
    steps, kl = seen.points(*KL)
    if len(kl) > FEW:
        means = rolling(kl, 3)
        grown = means[3:] / np.maximum(means[:-3], 1e-12)
        least = np.minimum(np.minimum(kl[3:-2], kl[4:-1]), kl[5:])
        at = first_true((grown > 5) & (least > 3 * float(kl[:10].max())))
        if at is not None:
            return Shows(f"the KL went from {means[at]:.3g} to {means[at + 3]:.3g} in three steps", float(steps[at + 3]))
    steps, entropy = seen.points(*ENTROPY)
    if len(entropy) > FEW:
        means = rolling(entropy, 3)
        there = np.maximum(means[3:], means[:-3]) > 0.4 * float(entropy[:5].mean())
        at = first_true(there & ((means[3:] < 0.5 * means[:-3]) | (means[3:] > 5 * means[:-3])))
        if at is not None:
            return Shows(f"the entropy went from {means[at]:.3g} to {means[at + 3]:.3g} in three steps", float(steps[at + 3]))
    return None


def far(seen: Seen) -> Shows | None:
    steps, values = seen.points(*KL)
    if len(values) < FEW:
        return None
    usual = float(np.median(values[: len(values) // 2]))
    at = first_true(rolling(values, 3) > 10 * max(usual, 0.1))
    return Shows(f"the KL went from {usual:.3g} to {float(np.max(values)):.3g}", float(steps[at])) if at is not None else None


def narrow(seen: Seen) -> Shows | None:
    """Entropy fell to less than half of what it was, and the reward has nothing of it."""
    steps, entropy = seen.points(*ENTROPY)
    trained, reward = seen.points(*REWARD)
    if len(entropy) < FEW or len(reward) < FEW:
        return None
    start = float(entropy[:5].mean())
    means = rolling(entropy, 3)
    at = first_true(means < 0.5 * start)
    if at is None:
        return None
    since = reward[trained >= steps[at]]
    before = reward[trained < steps[at]]
    gained = float(since[-10:].mean() - before[-10:].mean()) if len(since) and len(before) else 0.0
    if gained > 0.6 * noise(reward):
        return None
    return Shows(
        f"entropy fell from {start:.3g} to {means[-1]:.3g}, and the reward changed by {gained:.2g} meanwhile", float(steps[at + 2])
    )


def pushed(seen: Seen) -> Shows | None:
    """The limits of the rule `entropy-pushed`: the task is solved, most groups teach nothing, and entropy goes on falling."""
    steps, entropy = seen.points(*ENTROPY)
    most, least, reward, alike = (seen.of(name) for name in ("reward_max", "reward_min", "reward", "frac_reward_zero_std"))
    if len(entropy) < FEW or {len(most), len(least), len(reward), len(alike)} != {len(entropy)}:
        return None
    idle = rolling(alike, 5)[5:] > 0.99
    if not len(seen.of("loss/value_avg")):  # the advantages of a critic need no group that differs
        idle |= rolling(alike, 10) > 0.5
    start = float(entropy[:5].mean())
    means, halves = rolling(entropy, 3)[7:], rolling(entropy, 5)
    falls = halves[5:] < 0.9 * halves[:-5]
    best, worst = np.maximum.accumulate(most)[9:], np.minimum.accumulate(least)[9:]
    solved = rolling(reward, 10) > best - 0.2 * (best - worst)
    there = falls & (means < 0.65 * start) & solved & idle
    at = first_true(rolling(there.astype(float), 3) > 0.99)
    if at is None:
        return None
    return Shows(
        f"entropy fell from {start:.3g} to {entropy[-1]:.3g} while the reward was at {reward[at + 9]:.3g} of {best[at]:.3g} at most",
        float(steps[at + 9]),
    )


def lengthy(seen: Seen) -> Shows | None:
    """The limits of the rule `length-up`."""
    steps, length = seen.points(*LENGTH)
    _, corr = seen.points("completions/reward_length_corr")
    if len(length) < FEW or len(corr) != len(length):
        return None
    at = first_true((rolling(length, 3)[2:] > 1.3 * float(length[:5].mean())) & (rolling(corr, 5) > 0.7))
    if at is None:
        return None
    return Shows(
        f"answers grew from {length[:5].mean():.3g} to {length[-5:].mean():.3g} tokens, and reward follows length", float(steps[at + 4])
    )


def drop(seen: Seen) -> Shows | None:
    steps, values = seen.points(*REWARD)
    if len(values) < FEW:
        return None
    means = rolling(values, 5)
    falls = means[:-5] - means[5:]
    at = int(np.argmax(falls))
    deep = float(falls[at]) > 5 * max(float(np.median(np.abs(falls))), 1e-12) and float(falls[at]) > 0.25 * float(np.ptp(values))
    if not deep:
        return None
    return Shows(f"the mean of five steps fell from {means[at]:.3g} to {means[at + 5]:.3g} around row {at + 5}", float(steps[at + 5]))


def swings(seen: Seen) -> Shows | None:
    values = seen.of(*REWARD)
    if len(values) < 2 * FEW:
        return None
    means = rolling(values, 5)
    trend = np.polyval(np.polyfit(np.arange(len(means)), means, 1), np.arange(len(means)))
    apart = means - trend
    turns = int(np.sum(np.diff(np.sign(apart)) != 0))
    wide = float(np.std(apart)) > 1.5 * noise(values) and turns >= 4
    return Shows(f"the mean of five steps crosses its trend {turns} times, by {np.std(apart):.3g} on average") if wide else None


def flat(seen: Seen) -> Shows | None:
    values = seen.of(*REWARD)
    if len(values) < 2 * FEW or seen.change(*REWARD) >= 1:
        return None
    return Shows(f"the reward is where it was after {len(values)} steps: {np.mean(values[:5]):.3g}, now {np.mean(values[-5:]):.3g}")
