"""Which records hold questions of an evaluation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from keel.data.cleaning.config import DecontaminateConfig
from keel.data.cleaning.texts import Gram, prompt_text, texts_of
from keel.data.identity import Item, cluster_key, prompt_of
from keel.data.text import ngrams, words
from keel.types import Prompt


class Questions:
    """The questions of evaluations, by their runs of words."""

    def __init__(self, prompts: Sequence[Prompt], config: DecontaminateConfig) -> None:
        self.config = config
        self.whole = {cluster_key(p): p.source_id for p in prompts}
        self._size: list[int] = []
        self._places: list[str] = []
        self._by_gram: defaultdict[Gram, list[int]] = defaultdict(list)
        self._lengths: set[int] = set()
        for prompt in prompts:
            said = words(prompt_text(prompt))
            if len(said) < config.min_words:
                continue
            n = min(config.ngram, len(said))
            runs = set(ngrams(said, n))
            for gram in runs:
                self._by_gram[gram].append(len(self._size))
            self._lengths.add(n)
            self._size.append(len(runs))
            self._places.append(prompt.source_id)

    def found_in(self, record: Item) -> tuple[str, float] | None:
        """Where the question that a record holds stands, and the share of its runs; None without any. Runs do not cross the border of a
        record's texts."""
        place = self.whole.get(cluster_key(prompt_of(record)))
        if place is not None:
            return place, 1.0
        hits: defaultdict[int, int] = defaultdict(int)
        texts = [words(t) for t in texts_of(record)]
        runs = {gram for n in self._lengths for said in texts for gram in ngrams(said, n)}
        for gram in runs:
            for question in self._by_gram.get(gram, ()):
                hits[question] += 1
        shares = [(n / self._size[q], -q) for q, n in hits.items()]
        share, question = max(shares, default=(0.0, 0))
        return (self._places[-question], share) if shares and share >= self.config.share else None
