"""AMBER: the published script's numbers by hand, its quirks, and what mode fixed mends. Words and annotations are of the tests alone."""

from __future__ import annotations

from typing import Any

import pytest

from keel.core.errors import DataError, UserError
from keel.evaluate.hallucination import amber_words
from keel.evaluate.hallucination.amber import examine, run
from keel.evaluate.hallucination.amber_files import Description, Question, Vocabulary
from keel.evaluate.hallucination.amber_original import amber_score, describe, discriminative, generative
from keel.evaluate.hallucination.amber_words import Language, exact, language, vocabulary_nouns
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.result import Result

WORDS = {"tree": ["forest"], "sky": [], "dog": ["puppy"], "cloud": [], "flower": ["rose"], "sign": []}
VOCABULARY = Vocabulary({k: tuple(v) for k, v in WORDS.items()}, frozenset({"sign"}))
LANGUAGE = Language(vocabulary_nouns(VOCABULARY.words), exact, {"nouns": "words of the associations", "similarity": "exact"})
TRUTH = [
    {"id": 1, "type": "generative", "truth": ["tree", "sky"], "hallu": ["cloud", "flower"]},
    {"id": 2, "type": "generative", "truth": ["dog"], "hallu": ["flower"]},
    {"id": 3, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 4, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 5, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 6, "type": "discriminative-attribute-state", "truth": "no"},
    {"id": 7, "type": "discriminative-attribute-number", "truth": "yes"},
    {"id": 8, "type": "discriminative-attribute-action", "truth": "no"},
    {"id": 9, "type": "discriminative-relation", "truth": "yes"},
    {"id": 10, "type": "relation", "truth": "no"},
]
QUESTIONS = range(3, 11)


def measured(write: Any, answers: dict[int, str], **settings: Any) -> Result:
    """The answers by id."""
    rows = [{"id": i, "response": text} for i, text in answers.items()]
    files = {"file": write("answers.json", rows), "truth": write("truth.json", TRUTH), "associations": write("words.json", WORDS)}
    return run(HallucinationConfig(measure="amber", draws=100, safe_words=write("safe.txt", "sign\n"), **files, **settings))


def mean(rates: Any, name: str) -> float | None:
    return None if rates[name] is None else rates[name].mean


def described(text: str, language: Language = LANGUAGE) -> Any:
    return describe(Description("1", text, ("tree", "sky"), ("cloud", "flower")), VOCABULARY, language)


def test_a_description_by_the_script() -> None:
    """forest is the tree; rose is a word for the target flower; dog is neither; sign is safe and stays in the denominator."""
    found = described("a forest with a rose and a dog at a sign under the sky")
    assert found.nouns == ("forest", "rose", "dog", "sign", "sky")
    assert found.wrong == ("rose", "dog")
    assert (found.covered, found.hit) == ({0, 1}, {1})
    numbers = generative([Description("1", "", ("tree", "sky"), ("cloud", "flower"))], [found])
    assert numbers == {"CHAIR": 40.0, "Cover": 100.0, "Hal": 100.0, "Cog": 50.0}


def test_a_capital_hides_a_noun_from_the_script_only(write: Any) -> None:
    assert described("Dogs run").nouns == ()
    assert measured(write, {1: "Dogs run", 2: "a dog"}).rows[0]["nouns"] == ["dog"]


def test_similarity_acquits_and_credits_twice_in_the_script() -> None:
    """A rose that is similar to a cloud and to the sky hits both targets, and is excused."""
    alike = Language(LANGUAGE.nouns, lambda a, b: (a, b) in {("rose", "cloud"), ("rose", "sky")}, LANGUAGE.names)
    found = described("a rose", alike)
    assert (found.hit, found.wrong, found.covered) == ({0, 1}, (), {1})


def test_counters_start_at_a_thousandth() -> None:
    """1 noun of 1, wrong: 1 / 1.001 = 99.9; no noun at all: Hal is 0 and says nothing."""
    one = describe(Description("1", "a dog", ("tree",), ()), VOCABULARY, LANGUAGE)
    assert generative([Description("1", "a dog", ("tree",), ())], [one])["CHAIR"] == 99.9
    none = describe(Description("1", "", ("tree",), ()), VOCABULARY, LANGUAGE)
    numbers = generative([Description("1", "", ("tree",), ())] * 1000, [none] * 1000)
    assert numbers == {"CHAIR": 0.0, "Cover": 0.0, "Hal": 0.0, "Cog": 0.0}


def test_questions_by_the_script() -> None:
    """100 no and 100 yes; 60 no and 90 yes right, 10 no answers "No." that count for nothing. Said "No": 60 + 10 of the yes.
    Precision 60 / 70.001 = 85.7, recall 60 / 100.001 = 60.0, accuracy 150 / 200.001 = 75.0, F1 = 2 .857 .6 / 1.4571 = 70.6."""
    answers = [(False, "No")] * 60 + [(False, "No.")] * 10 + [(False, "Yes")] * 30 + [(True, "Yes")] * 90 + [(True, "No")] * 10
    questions = [Question(str(i), a, "relation", label) for i, (label, a) in enumerate(answers)]
    assert discriminative(questions) == {"relation": {"Accuracy": 75.0, "Precision": 85.7, "Recall": 60.0, "F1": 70.6}}


def test_attribute_sums_three_counters() -> None:
    """One right answer: 1 / 1.001 for state, 1 / 1.003 for attribute."""
    found = discriminative([Question("1", "Yes", "state", True)])
    assert (found["state"]["Accuracy"], found["attribute"]["Accuracy"]) == (99.9, 99.7)


def test_always_no_is_nearly_perfect_on_existence_by_the_script() -> None:
    """1000 questions, all no: precision and recall 100, F1 = 2 / 2.001 = 100.0."""
    questions = [Question(str(i), "No", "existence", False) for i in range(1000)]
    assert discriminative(questions)["existence"] == {"Accuracy": 100.0, "Precision": 100.0, "Recall": 100.0, "F1": 100.0}


def test_always_no_gains_nothing_in_mode_fixed(write: Any) -> None:
    """Of 8 questions 3 are yes. Always no is right in 5, in balance 1/2, and affirms nothing that is true. Existence has
    one class: no F1."""
    result = measured(write, dict.fromkeys(QUESTIONS, "No"))
    assert mean(result.rates, "accuracy") == 5 / 8
    assert mean(result.rates, "balanced_accuracy") == 0.5
    assert mean(result.rates, "says_no") == 1.0
    assert mean(result.rates, "coverage") == 0.0
    existence = result.parts["existence"]
    assert (existence["f1"], existence["balanced_accuracy"], existence["coverage"]) == (None, None, None)
    assert any(note.startswith("existence: the right answer is always no") for note in result.notes)
    for name in ("object", "attribute", "relation"):
        rate, coverage = result.types[name].rate, result.types[name].coverage
        assert rate is not None
        assert coverage is not None
        assert (rate.mean, coverage.mean) == (0.0, 0.0)


def test_silence_does_not_win(write: Any) -> None:
    result = measured(write, dict.fromkeys(range(1, 11), ""))
    assert mean(result.rates, "accuracy") == 0.0
    assert mean(result.rates, "hallucination") is None
    assert mean(result.parts["generative"], "chair") is None
    assert mean(result.parts["generative"], "cover") == 0.0
    assert result.coverage is not None
    assert result.coverage.mean == 0.0
    assert len(result.named["empty"]) == 10


def test_answers_with_a_point_are_read_in_mode_fixed(write: Any) -> None:
    answers = {i: "Yes." if t["truth"] == "yes" else "no" for i, t in zip(QUESTIONS, TRUTH[2:])}
    result = measured(write, answers)
    assert (mean(result.rates, "accuracy"), mean(result.rates, "f1"), mean(result.rates, "hallucination")) == (1.0, 1.0, 0.0)
    assert measured(write, answers, mode="original").printed["relation"]["Accuracy"] == 0.0


def test_types_and_the_overall_rate(write: Any) -> None:
    """Number counts as object, action as relation. Untrue and affirmed: object 1 of 2, attribute 1 of 1, relation 0 of 2."""
    said = {3: "Yes", 4: "No", 5: "Yes", 6: "Yes", 7: "No", 8: "No", 9: "Yes", 10: "No"}
    types = measured(write, said).types
    found = {k: (t.rate.mean if t.rate else None, t.coverage.mean if t.coverage else None) for k, t in types.items()}
    assert found == {"object": (0.5, 0.0), "attribute": (1.0, 1.0), "relation": (0.0, 1.0)}


def test_descriptions_in_mode_fixed(write: Any) -> None:
    """First: tree right, rose is the target flower alone, sign is not counted: 1 of 2 wrong. Second: names nothing. Covered: tree of tree,
    sky, dog. Typical additions: 1 of 2 nouns, 1 of 3 targets."""
    result = measured(write, {1: "Trees, a rose and a sign", 2: "A red thing"})
    part = {k: None if v is None else v.mean for k, v in result.parts["generative"].items()}
    assert part == {"chair": 0.5, "hal": 1.0, "cover": pytest.approx(1 / 3), "cog": 0.5, "targets_hit": pytest.approx(1 / 3)}
    assert result.named["without_nouns"] == ["2"]
    assert result.notes == ("not asked, no answer is there: existence, state, number, action, relation",)
    assert result.ways == {"nouns": "words of the associations", "similarity": "exact"}


def test_a_description_that_is_missing_covers_nothing(write: Any) -> None:
    result = measured(write, {1: "a tree under the sky"})
    assert mean(result.parts["generative"], "cover") == pytest.approx(2 / 3)
    assert result.named["missing"] == ["2"]


def test_a_target_is_not_acquitted_in_mode_fixed() -> None:
    """A rose is a word for the target flower: it hits that target alone, whatever it is similar to; a dog may be similar to the sky."""
    alike = Language(LANGUAGE.nouns, lambda a, b: b in ("cloud", "sky"), LANGUAGE.names)
    found = examine(Description("1", "", ("tree", "sky"), ("cloud", "flower")), ["rose", "dog"], VOCABULARY, alike)
    assert (found.hit, found.wrong, found.covered) == ({1}, ("rose",), {1})


def test_thoughts_describe_nothing(write: Any) -> None:
    rows = measured(write, {1: "<think>a dog</think>a tree", 2: "<think>a dog"})
    assert (rows.rows[0]["nouns"], rows.named["empty"]) == (["tree"], ["2"])


def test_the_papers_score() -> None:
    assert amber_score({"CHAIR": 10.0}, {"all": {"F1": 80.0}}) == 85.0
    assert amber_score({}, {"all": {"F1": 80.0}}) is None
    assert amber_score({"CHAIR": 10.0}, {"existence": {"F1": 80.0}}) is None


def test_libraries_that_are_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amber_words, "_nltk_nouns", lambda: None)
    monkeypatch.setattr(amber_words, "_spacy_same", lambda threshold: None)
    base: Any = {"file": "x", "measure": "amber"}
    with pytest.raises(UserError, match="nouns=nltk: nltk or its data is not installed"):
        language(HallucinationConfig(**base, nouns="nltk"), frozenset())
    with pytest.raises(UserError, match="similarity=spacy: spaCy or its model"):
        language(HallucinationConfig(**base, similarity="spacy"), frozenset())
    assert language(HallucinationConfig(**base, mode="original"), frozenset()).names["similarity"] == "exact"


def test_the_scripts_libraries_are_taken_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amber_words, "_nltk_nouns", lambda: str.split)
    monkeypatch.setattr(amber_words, "_spacy_same", lambda threshold: lambda a, b: threshold == 0.7)
    base: Any = {"file": "x", "measure": "amber", "threshold": 0.7}
    found = language(HallucinationConfig(**base, mode="original"), frozenset())
    assert found.names == {"nouns": "nltk", "similarity": "spaCy en_core_web_lg above 0.7"}
    assert found.nouns("a b") == ["a", "b"]
    assert found.same("x", "y")
    assert language(HallucinationConfig(**base), frozenset()).names == {"nouns": "words of the associations", "similarity": "exact"}
    assert (
        language(HallucinationConfig(**base, nouns="vocabulary", mode="original"), frozenset()).names["nouns"]
        == "words of the associations"
    )


def test_what_cannot_be_used_is_told(write: Any) -> None:
    with pytest.raises(DataError, match=r"answers.json:1: the id not in .*truth.json: 99"):
        measured(write, {99: "No"})
    with pytest.raises(DataError, match="truth: not given"):
        run(HallucinationConfig(file=write("a.json", [{"id": 1, "response": "No"}]), measure="amber"))
    one: Any = {"file": write("a.json", [{"id": 1, "response": "No"}]), "measure": "amber"}
    with pytest.raises(DataError, match=r"t.json:1: type: 'other' is no type of the benchmark"):
        run(HallucinationConfig(**one, truth=write("t.json", [{"id": 1, "type": "other", "truth": "no"}])))
    truth = write("t.json", [{"id": 1, "type": "generative", "truth": ["kite"]}])
    with pytest.raises(DataError, match=r"id 1: 'kite' is not in .*w.json"):
        run(HallucinationConfig(**one, truth=truth, associations=write("w.json", WORDS)))
    with pytest.raises(DataError, match=r"w.json: tree: must be a list of words"):
        run(HallucinationConfig(**one, truth=truth, associations=write("w.json", {"tree": "forest"})))
