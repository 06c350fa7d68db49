"""Grounded decoding: which tokens are lowered when, and what is drawn and recorded then."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from keel.core.errors import UserError
from keel.methods.credit.units import rollout_units
from keel.rollout.phrases import PhraseBias, Speller, forms, names_of
from keel.simulate.scenes.judge import judge
from keel.simulate.scenes.read import read
from keel.simulate.scenes.scene import Look, Scene, Thing
from keel.types import Encoded, Prompt, Rollout, SampleRequest, SamplingParams, empty_group

PIECES = (
    "<end>", "x", "(", "\n", "，", "的", " a", " and", ".",
    " cat", "cat", "egory", " gir", "affe", "girl", " teddy", " bear", "bear", " hot", " dog",
    " fire", " hydrant", " c", "art", "at", "红", "色", "马", "斑", " circle", " star", " square", " red", "There is",
)  # fmt: skip


class Pieces:
    """A tokenizer: the longest piece that fits; letters that no piece holds have ids of their own."""

    def __init__(self, pieces: Sequence[str] = PIECES) -> None:
        self.pieces = pieces

    def id(self, piece: str) -> int:
        return self.pieces.index(piece) if piece in self.pieces else 1000 + ord(piece)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = []
        while text:
            piece = max((p for p in self.pieces if text.startswith(p)), key=len, default=text[0])
            ids.append(self.id(piece))
            text = text[len(piece) :]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[i] if i < 1000 else chr(i - 1000) for i in ids)


PIECE = Pieces()


def lowered(said: str, names: Sequence[str], free: Sequence[str] = ()) -> set[str]:
    bias = PhraseBias(Speller(PIECE), names, free, 5.0)
    return {PIECE.decode([i]) for i in bias.lowered(PIECE.encode(said))}


def test_a_word_is_lowered_with_and_without_its_space() -> None:
    assert lowered("There is a", ["cat"]) >= {" cat"}
    assert "cat" not in lowered("There is a", ["cat"])  # a letter stands before it: it would be "acat"
    assert lowered("", ["cat"]) >= {" cat", "cat"}
    assert "cat" in lowered("(", ["cat"])


def test_a_word_of_several_tokens_is_lowered_once_at_the_token_that_tells_it() -> None:
    assert " gir" in lowered(" a", ["giraffe"])
    assert "affe" not in lowered(" a gir", ["giraffe"])  # it was paid for


def test_a_shared_beginning_is_left_to_the_word_that_is_there() -> None:
    assert " c" not in lowered(" a", ["cart"], ["cat", "c"])
    assert lowered(" a c", ["cart"], ["c"]) >= {"art"}


def test_of_two_phrases_the_longer_one_decides() -> None:
    names = ["bear"]
    assert " bear" in lowered(" a", names, ["teddy bear"])
    assert " bear" not in lowered(" a teddy", names, ["teddy bear"])
    assert " hot" not in lowered(" a", ["hot dog"], ["dog"])
    assert " dog" in lowered(" a hot", ["hot dog"], ["dog"])
    assert " dog" not in lowered(" a", ["hot dog"], ["dog"])


def test_a_name_that_begins_a_free_one_is_missed_and_told() -> None:
    bias = PhraseBias(Speller(PIECE), ["fire", "cat"], ["fire hydrant"], 5.0)
    assert bias.missed == ("fire",)


def test_letters_alone_do_not_tell_a_word() -> None:
    spelled = Pieces(("<end>",))  # every character is a token
    bias = PhraseBias(Speller(spelled), ["cow"], [], 5.0)
    after = {text: {spelled.decode([i]) for i in bias.lowered(spelled.encode(text))} for text in ("a", "a ", "a c", "a co", "sc")}
    assert after == {"a": set(), "a ": set(), "a c": {"o"}, "a co": set(), "sc": set()}


def test_chinese_needs_no_space() -> None:
    assert lowered("红", ["马"]) >= {"马"}
    assert "马" not in lowered("红斑", ["马"], ["斑马"])
    assert "马" in lowered("红斑", ["斑马"], ["马"])
    assert "马" not in lowered("红", ["斑马"], ["马"])


class Halves(Pieces):
    """A tokenizer that writes each Chinese character in two tokens, as bytes do; half of one is no text."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [i for c in text for i in (1000 + ord(c) // 256, 2000 + ord(c) % 256)]

    def decode(self, ids: Sequence[int]) -> str:
        whole = "".join(chr((a - 1000) * 256 + b - 2000) for a, b in zip(ids[::2], ids[1::2], strict=False))
        return whole + "�" * (len(ids) % 2)


def test_a_piece_of_a_character_tells_nothing() -> None:
    bias = PhraseBias(Speller(Halves()), ["红星", "马"], ["红色"], 5.0)
    halves = Halves().encode("红星")
    assert [halves[i] in bias.lowered(halves[:i]) for i in range(4)] == [False, False, False, True]
    horse = Halves().encode("马")
    assert [horse[i] in bias.lowered(horse[:i]) for i in range(2)] == [False, True]


def test_forms_of_a_name() -> None:
    assert forms("cherry") == ("cherry", "cherries", "Cherry", "Cherries")
    assert forms("bus")[1] == "buses"
    assert forms("toy")[1] == "toys"
    assert forms("斑马") == ("斑马",)


def test_names_of_what_is_seen() -> None:
    objects = {"dog": "dog", "puppy": "dog", "cat": "cat"}
    assert names_of(objects, ["puppy"]) == (["cat"], ["dog", "puppy", "puppy"])
    assert names_of(objects, ["ufo"]) == (["dog", "puppy", "cat"], ["ufo"])


# ---------------------------------------------------------------------------------------------------------------- what is drawn


class Table:
    """A decoder whose logits depend on the last token only."""

    def __init__(self, rows: dict[str, dict[str, float]], vocabulary: int = len(PIECES)) -> None:
        self.logits_VV = torch.full((vocabulary, vocabulary), -math.inf)
        for last, following in rows.items():
            for piece, probability in following.items():
                self.logits_VV[PIECE.id(last), PIECE.id(piece)] = math.log(probability)
        self.first = PIECE.id("x")

    def start(self, prompts: Sequence[Encoded], prompt_B: Tensor, max_tokens: int, beginnings: Sequence[object] = ()) -> Tensor:
        return self.logits_VV[self.first].repeat(len(prompt_B), 1)

    def step(self, tokens_B: Tensor) -> Tensor:
        return self.logits_VV[tokens_B].clone()

    def keep(self, alive_B: Tensor) -> Tensor:
        return alive_B.nonzero()[:, 0]

    def finish(self) -> None: ...


@pytest.fixture
def drawn(load, sampler, monkeypatch):
    """``drawn(table, bias, n, **params)``: rollouts of the table."""

    def run(table: Table, bias: PhraseBias | None, n: int, **params) -> list[Rollout]:
        local = sampler(load("llama"))
        monkeypatch.setattr(local, "_decoder", table)
        monkeypatch.setattr(local, "_decode", lambda tokens_T: PIECE.decode([t for t in tokens_T.tolist() if t]))
        settings = SamplingParams(max_tokens=12, stop_tokens=(0,), **params)
        local.submit([SampleRequest("p", Encoded(torch.tensor([1])), n, settings, seed=0, bias=bias)])
        return sorted(local.collect(), key=lambda r: r.sample)

    return run


ANIMALS = {" cat": 0.5, " dog": 0.3, " bear": 0.2}
FORK = {"x": {" a": 1.0}, " a": ANIMALS, **{animal: {"<end>": 1.0} for animal in ANIMALS}}


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probabilities_are_those_of_the_distribution_that_was_drawn_from(drawn, temperature: float) -> None:
    bias = PhraseBias(Speller(PIECE), ["cat"], ["dog"], 2.0)
    found = drawn(Table(FORK), bias, 600, temperature=temperature)
    weights = {" cat": 0.5 * math.exp(-2.0), " dog": 0.3, " bear": 0.2}
    weights = {piece: w ** (1 / temperature) for piece, w in weights.items()}
    total = sum(weights.values())
    counts = dict.fromkeys(weights, 0)
    for rollout in found:
        piece = PIECE.decode([int(rollout.tokens_T[1])])
        counts[piece] += 1
        assert rollout.logprobs_T.tolist() == pytest.approx([0.0, math.log(weights[piece] / total), 0.0], abs=1e-5)
        assert rollout.biased
    for piece, weight in weights.items():  # 4.5 standard deviations
        share = weight / total
        assert abs(counts[piece] / 600 - share) < 4.5 * math.sqrt(share * (1 - share) / 600)


def test_rows_side_by_side_have_biases_of_their_own_and_leave_the_batch(drawn, load, sampler, monkeypatch) -> None:
    local = sampler(load("llama"))
    monkeypatch.setattr(local, "_decoder", Table(FORK))
    greedy = SamplingParams(max_tokens=3, temperature=0.0, stop_tokens=(0,))
    for i, names in enumerate(([], ["cat"], ["cat", "dog"])):
        bias = PhraseBias(Speller(PIECE), names, [], 5.0) if names else None
        local.submit([SampleRequest(str(i), Encoded(torch.tensor([1])), 1, greedy, seed=0, bias=bias)])
    found = {r.prompt_id: r for r in local.collect()}
    assert [PIECE.decode([int(found[str(i)].tokens_T[1])]) for i in range(3)] == [" cat", " dog", " bear"]
    assert [found[str(i)].biased for i in range(3)] == [False, True, True]


def test_a_real_model_gives_the_same_numbers_by_both_paths(load, sampler, prompts) -> None:
    loaded = load("llama")
    banned = PhraseBias(Speller(loaded.tokenizer), ["the", "dog"], [], 3.0)
    for path in ("auto", "plain"):
        local = sampler(loaded, path=path)
        settings = SamplingParams(max_tokens=8, stop_tokens=(3,))
        local.submit([SampleRequest(str(i), p, 3, settings, seed=1, bias=banned) for i, p in enumerate(prompts)])
        for rollout in local.collect():
            whole = torch.cat([prompts[int(rollout.prompt_id)].tokens_T, rollout.tokens_T])
            with torch.no_grad(), loaded.model.own_attention() as module:
                logits_LV = module(input_ids=whole[None]).logits[0, -len(rollout) - 1 : -1].float()
            for t in range(len(rollout)):
                logits_LV[t, banned.lowered(rollout.tokens_T[:t].tolist())] -= 3.0
            expected_T = logits_LV.log_softmax(-1).gather(1, rollout.tokens_T[:, None])[:, 0]
            assert torch.allclose(rollout.logprobs_T, expected_T, atol=1e-4)


def test_made_up_objects_fall_and_what_is_told_stays(drawn) -> None:
    scene = Scene("one", (Thing(Look("circle", "red"), 0, 0),))
    shapes = {" circle": 0.4, " star": 0.3, " square": 0.3}
    start = {"x": {"There is": 1.0}, "There is": {" a": 1.0}, " a": {" red": 1.0}, " red": shapes}
    table = Table(start | {s: {".": 1.0} for s in shapes} | {".": {"<end>": 1.0}})
    bias = PhraseBias(Speller(PIECE), *names_of({s: s for s in ("circle", "star", "square")}, ["circle"]), 5.0)
    made_up, told = [], []
    for way in (None, bias):
        judged = [judge(read(r.text), scene) for r in drawn(table, way, 200)]
        made_up.append(sum(e.type == "existence" for f in judged for e in f.errors) / 200)
        told.append(sum(f.coverage or 0.0 for f in judged) / 200)
    assert made_up[0] > 0.5
    assert made_up[1] < 0.05
    assert told[1] > 0.9 > told[0]


def test_nothing_is_trained_on_such_answers_as_on_the_policys() -> None:
    rollout = Rollout(
        "p", 0, 0, torch.tensor([1]), torch.tensor([True]), torch.zeros(1), torch.zeros(1, dtype=torch.int64), "stop", biased=True
    )
    with pytest.raises(UserError, match="no sample of the policy"):
        rollout_units([empty_group(Prompt("p", text="?"), Encoded(torch.tensor([1])), [rollout])])
