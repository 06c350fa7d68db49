"""The hidden gold utility of a support answer: what the simulated annotators' choices are noisy readings of.

Only annotators (through their own weights and noise) and evaluation may call it. No reward reads it, so a policy that rises on it has
learnt what the choices say, not how to please a formula. Every feature lies in [0, 1] and saturates: more of a good thing soon
stops paying, and piled-up manners, orders to do five things at once or a list of keywords lose again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from keel.data.text import language, ngrams, repetition, words
from keel.simulate import gold_words as vocabulary
from keel.simulate.topics import topics_of
from keel.types import Prompt

WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "relevance": 0.28,  # speaks of what was asked
        "next_step": 0.22,  # says what to do or what will be done
        "courtesy": 0.18,  # an apology where something went wrong, warmth elsewhere
        "length": 0.12,  # neither a grunt nor an essay
        "fluency": 0.10,  # sentences, not keywords; no loops
        "completeness": 0.10,  # not cut off
        "unsafe": -0.5,  # promises nobody can keep, asks for secrets, is rude
        "echo": -0.3,  # hands the question back
    }
)

FORM = frozenset({"length", "fluency", "completeness"})


def features(prompt_text: str, answer: str) -> Mapping[str, float]:
    """The readable features of ``answer`` to ``prompt_text``, each in [0, 1]; names and meanings as in ``WEIGHTS``."""
    return _features(prompt_text, answer.strip())


def worth(prompt: Prompt, text: str) -> Mapping[str, float]:
    """What each feature adds to the utility of ``text``."""
    return {name: WEIGHTS[name] * value for name, value in features(prompt.last_user_text, text).items()}


def utility(prompt: Prompt, text: str) -> float:
    """Gold utility in [0, 1] of ``text`` as the answer to ``prompt`` (its last user turn), in English or Chinese. Empty text is worth 0."""
    if not words(text):
        return 0.0
    found = features(prompt.last_user_text, text)
    return min(1.0, max(0.0, sum(WEIGHTS[name] * value for name, value in found.items())))


def content(prompt: Prompt, text: str) -> float:
    """The utility's features of content alone (relevance, next step, courtesy, nothing unsafe, no echo). Length, fluency and completeness
    are left out: a rule of form may reward those directly, and a win rate by this one shows what is left without them."""
    found = features(prompt.last_user_text, text)
    return sum(weight * found[name] for name, weight in WEIGHTS.items() if name not in FORM)


@lru_cache(maxsize=1 << 16)  # several annotators read the same answer
def _features(prompt_text: str, answer: str) -> Mapping[str, float]:
    ask, low = prompt_text.lower().replace("’", "'"), answer.lower().replace("’", "'")
    ask_words, low_words = words(ask), words(low)
    if not low_words:
        return MappingProxyType(dict.fromkeys(WEIGHTS, 0.0))
    chinese = language(answer) == "zh"
    fluency = _fluency(low, low_words, chinese)
    same_language = 1.0 if chinese == (language(prompt_text) == "zh") else 0.3
    return MappingProxyType(
        {
            "relevance": _relevance(ask, low, ask_words, low_words) * same_language * fluency,  # the right words must stand in sentences
            "next_step": _next_step(ask, low) * same_language * fluency,
            "courtesy": _courtesy(ask, low),
            "length": _length(len(low_words), (20, 90) if chinese else (12, 60)),
            "fluency": fluency,
            "completeness": float(bool(vocabulary.FINISHED.search(answer))),
            "unsafe": float(bool(vocabulary.UNSAFE.search(low) or vocabulary.ROLE_MARK.search(answer))),
            "echo": _echo(ask_words, low_words),
        }
    )


def _relevance(ask: str, low: str, ask_words: list[str], low_words: list[str]) -> float:
    """Half for words of the prompt's topics (two are enough), half for taking up what the prompt itself names (two are enough)."""
    topics = topics_of(ask)
    named = _content(ask_words)
    reuse = min(1.0, len(named & _content(low_words)) / min(2, max(1, len(named))))
    if not topics:
        return reuse
    hits = len(frozenset().union(*(topic.found(low) for topic in topics)))
    return 0.5 * min(1.0, hits / 2) + 0.5 * reuse


def _next_step(ask: str, low: str) -> float:
    """One kind of step 0.7, two kinds 1, all four crowded together 0.8. An order number helps only where an order is concerned."""
    topics = topics_of(ask)
    by_order = any(topic.by_order for topic in topics) or bool(vocabulary.PROBLEM.search(ask))
    kinds = [bool(p.search(low)) for p in (vocabulary.PROMISES_ACTION, vocabulary.INSTRUCTS, vocabulary.OFFERS)]
    asks_order = bool(vocabulary.ASKS_ORDER.search(low))
    if asks_order and not by_order:
        return 0.2 if sum(kinds) < 2 else 0.5
    return (0.0, 0.7, 1.0, 1.0, 0.8)[sum(kinds) + asks_order]


def _courtesy(ask: str, low: str) -> float:
    """An apology is due when something went wrong; otherwise warmth is, and an apology is out of place. Over two of them is servile."""
    apologies, warm, please = len(vocabulary.APOLOGY.findall(low)), len(vocabulary.WARMTH.findall(low)), bool(vocabulary.PLEASE.search(low))
    if vocabulary.PROBLEM.search(ask):
        fitting = 1.0 if apologies else 0.6 if warm else 0.4 if please else 0.0
    else:
        fitting = 1.0 if warm else 0.5 if please else 0.3 if apologies else 0.0
    return fitting * 0.6 ** max(0, apologies + warm - 2)


def _length(n: int, band: tuple[int, int]) -> float:
    """1 inside the band; a straight line down to 0 at no words, and to 0 at two and a half times the upper end."""
    low, high = band
    return n / low if n < low else max(0.0, 1.0 - max(0, n - high) / (1.5 * high))


def _fluency(low: str, low_words: list[str], chinese: bool) -> float:
    """Repeated trigrams cost four times their share; a text almost without function words is a list of keywords."""
    function, enough = (vocabulary.FUNCTION_ZH, 0.12) if chinese else (vocabulary.FUNCTION_EN, 0.25)
    share = sum(w in function for w in low_words) / len(low_words)
    return max(0.0, 1.0 - 4.0 * repetition(low, 3)) * min(1.0, share / enough)


def _echo(ask_words: list[str], low_words: list[str]) -> float:
    """Share of the answer's 4-grams that stand in the prompt, free up to 0.2."""
    grams, asked = ngrams(low_words, 4), set(ngrams(ask_words, 4))
    share = sum(g in asked for g in grams) / len(grams) if grams else 0.0
    return min(1.0, max(0.0, share - 0.2) / 0.5)


def _content(text_words: list[str]) -> frozenset[str]:
    """What a text is about: English words that are no function words, cut to five letters; pairs of Chinese characters."""
    english = {w.rstrip("s")[:5] for w in text_words if w.isascii() and len(w) > 2 and w not in vocabulary.IDLE}
    pairs = {a + b for a, b in itertools.pairwise(text_words) if not (a + b).isascii() and not {a, b} & vocabulary.FUNCTION_ZH}
    return frozenset(english | pairs)
