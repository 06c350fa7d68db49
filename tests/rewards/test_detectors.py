"""Detectors by name: words against the row or an object detector, and a judge behind a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from keel.core.config import checked
from keel.core.errors import ConfigError, DataError, UserError
from keel.rewards.build import build_rewards
from keel.rewards.detectors.judge import PictureJudgeConfig, by_judge, read_reply
from keel.rewards.detectors.words import SeenConfig, WordsConfig, by_looking, by_words, of_row
from keel.rewards.sources.hallucination import HallucinationReward
from keel.types import ImagePart, Message, Prompt, TextPart

TEXT = "A dog and two wine glasses; the dog's bowl, a hot-dog and 一只狗 isn't a puppy."


@pytest.fixture
def words(tmp_path: Path) -> WordsConfig:
    (tmp_path / "objects.txt").write_text("dog, puppy, 狗\nwine glass\nhot dog\nbowl\ncat\n", encoding="utf-8")
    return WordsConfig(objects=str(tmp_path / "objects.txt"))


def row(*names: str) -> Prompt:
    return Prompt("p", text="?", source_id="rows.jsonl:2", meta={"objects": list(names)})


def test_what_is_named_and_not_there_is_marked_at_its_characters(words: WordsConfig) -> None:
    found = by_words(words, of_row("objects"))(row("bowl", "cat"), TEXT)
    assert [TEXT[a:b] for _, a, b in found.errors] == ["dog", "wine glasses", "dog", "hot-dog", "狗", "puppy"]
    assert {kind for kind, _, _ in found.errors} == {"existence"}
    assert found.coverage == 0.5
    all_there = by_words(words, of_row("objects"))(row("puppy", "wine glass", "hot dog", "bowl"), TEXT)
    assert all_there.errors == []
    assert all_there.coverage == 1.0
    assert by_words(words, of_row("objects"))(row("zebra"), "a cat").coverage is None  # the list does not know what is there


def test_thoughts_are_not_read(words: WordsConfig) -> None:
    text = "<think>a cat?</think>A cat."
    found = by_words(words, of_row("objects"))(row("dog"), text)
    assert [(a, text[a:b]) for _, a, b in found.errors] == [(text.index("A cat") + 2, "cat")]
    unfinished = by_words(words, of_row("objects"))(row("dog"), "<think>a dog and a cat")
    assert (unfinished.errors, unfinished.coverage) == ([], 0.0)


def test_a_row_without_truth_is_told_by_its_place(words: WordsConfig) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:2: field 'objects': no such field"):
        by_words(words, of_row("objects"))(Prompt("p", text="?", source_id="rows.jsonl:2"), "a dog")


def test_an_object_detector_looks_once_at_each_picture(words: WordsConfig, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
    looks: list[tuple[int, ...]] = []

    def network(image: Any) -> dict[str, float]:
        looks.append(image.getpixel((0, 0)))
        return {"dog": 0.5, "cat": 0.39, "bowl": 0.4}

    seen = by_looking(SeenConfig(threshold=0.4), network)
    prompt = Prompt("p", (Message("user", (ImagePart(str(tmp_path / "red.png")), TextPart("What?"))),))
    detect = by_words(words, seen)
    assert [detect(prompt, text).errors for text in ("a dog", "a bowl", "a cat")] == [[], [], [("existence", 2, 5)]]
    assert detect(prompt, "a dog").coverage == 0.5
    assert looks == [(255, 0, 0)]


def test_settings_that_nothing_reads_are_refused(words: WordsConfig) -> None:
    for given, told in (
        ({"detector": "truth"}, "words.objects is needed"),
        ({"detector": "judge", "judge": {"url": "http://x/v1"}}, "judge.model is needed"),
        ({"detector": "objects", "words": {"objects": words.objects}}, "seen.weights is needed"),
        ({"detector": "truth", "words": {"objects": words.objects}, "judge": {"model": "m"}}, r"judge\.model would have no effect"),
        ({"detector": "x.py:fn", "words": {"objects": words.objects}}, r"words\.objects would have no effect"),
        ({"detector": "guess"}, "detector"),
    ):
        with pytest.raises(ConfigError, match=told):
            checked(HallucinationReward, {"name": "made_up", **given})


def test_a_reward_of_words_is_built_and_scores(words: WordsConfig) -> None:
    config = HallucinationReward(name="made_up", detector="truth", words=words)
    (reward,) = build_rewards([config], lambda c: None)  # type: ignore[arg-type, return-value]
    scores = reward.source.judge([(row("dog"), "a dog"), (row("dog"), "a cat"), (row("dog"), "")])  # type: ignore[attr-defined]
    assert [float(s) for s in scores] == [1.0, -2.0, 0.0]
    with pytest.raises(UserError, match="no such file"):
        HallucinationReward(name="x", detector="truth", words=WordsConfig(objects="gone.txt")).made()


# -------------------------------------------------------------------------------------------------------------------- the judge


class Server:
    """Answers every request with ``reply``; keeps what it was asked."""

    def __init__(self) -> None:
        self.reply: Any = None
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        self.meet: threading.Barrier | None = None  # requests wait for one another here
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, body, self.headers.get("Authorization")))
                if outer.meet is not None:
                    outer.meet.wait(timeout=60)
                said = json.dumps({"choices": [{"message": {"content": outer.reply}}]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_a_judge_is_shown_picture_and_answer_and_its_quotes_are_found(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setenv("MY_KEY", "secret")
    server.reply = '```json\n{"claims": [{"quote": "a cat", "type": "existence"}, {"quote": "a cat", "type": "existence"}, {"quote": "ten", "type": "count"}], "told": ["dog"], "missed": ["tree", "sky", "car"]}\n```'  # noqa: E501
    detect = by_judge(PictureJudgeConfig(url=server.url, model="big", key_env="MY_KEY"))
    prompt = Prompt("p", (Message("user", (ImagePart(str(tmp_path / "a.png")), TextPart("What is there?"))),))
    text = "a cat beside a cat"
    found = detect(prompt, text)
    assert found.errors == [("existence", 0, 5), ("existence", 13, 18), ("count", 18, 18)]
    assert found.coverage == 0.25
    path, body, key = server.asked[0]
    assert (path, body["model"], body["temperature"], key) == ("/v1/chat/completions", "big", 0, "Bearer secret")
    picture, question, answer = body["messages"][1]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert question["text"] == "What is there?"
    assert text in answer["text"]
    assert detect(prompt, " ").coverage == 0.0  # nobody needs to be asked about silence
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "said", ["I think it is fine.", '{"claims": 3}', '{"claims": [{"quote": "a", "type": "mood"}]}', '{"claims": [', ""]
)
def test_a_reply_that_was_not_asked_for_is_a_failure_and_no_praise(said: str) -> None:
    with pytest.raises(ValueError, match="claim"):
        read_reply(said, "a cat")


def test_a_judge_that_fails_fails_one_sample_only(server: Server) -> None:
    config = HallucinationReward(name="made_up", detector="judge", judge=PictureJudgeConfig(url=server.url, model="big"))
    (reward,) = build_rewards([config], lambda c: None)  # type: ignore[arg-type, return-value]
    server.reply = "no"
    assert reward.source.judge([(row(), "a cat")])[0].error  # type: ignore[attr-defined]
    server.reply = '{"claims": []}'
    assert float(reward.source.judge([(row(), "a cat")])[0]) == 0.0  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="the environment has no GONE_KEY"):
        by_judge(PictureJudgeConfig(url=server.url, model="m", key_env="GONE_KEY"))


def test_several_answers_are_being_judged_at_once(server: Server) -> None:
    """Nobody is answered before four have asked: one after the other would wait for ever."""
    config = HallucinationReward(name="made_up", detector="judge", judge=PictureJudgeConfig(url=server.url, model="big", at_once=4))
    (reward,) = build_rewards([config], lambda c: None)  # type: ignore[arg-type, return-value]
    server.reply, server.meet = '{"claims": [{"quote": "cat", "type": "existence"}]}', threading.Barrier(4)
    texts = [f"{'no ' * k}cat" for k in range(8)]
    scores = reward.source.judge([(row(), text) for text in texts])  # type: ignore[attr-defined]
    assert [s.reason for s in scores] == ["existence: 'cat'"] * 8
    assert sorted(body["messages"][1]["content"][-1]["text"].split("\n")[-1] for _, body, _ in server.asked) == sorted(texts)
