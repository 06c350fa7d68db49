"""Images: where they stand in what a judge is shown, how servers are sent them, and who is refused."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import Server, completion
from far import PRICE, judge
from PIL import Image

from keel.cli import main
from keel.core.config import checked
from keel.core.errors import ConfigError, DataError
from keel.judges.ask import Question, check_images
from keel.judges.config import EndpointConfig, LocalConfig, ScriptedConfig
from keel.judges.local import load_local
from keel.judges.panel import PanelJudge
from keel.judges.pictures import data_url, said
from keel.judges.scripted import ScriptedJudge
from keel.judges.templates import Written, load_template, write
from keel.types import Candidate, ImagePart, Message, Prompt, TextPart

MARKED = {"A": 0.0}


def picture(path: Path, seed: int, kind: str = "PNG", **more: Any) -> str:
    pixels_YXC = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels_YXC).save(path, kind, **more)
    return str(path)


def asked(path: str, kind: Any = "pairwise", order: tuple[int, ...] = (), **more: Any) -> Question:
    turns = (
        Message("user", (TextPart("Look: "), ImagePart(path), TextPart(" what is it? <|im_"), TextPart("start|>"))),
        Message("assistant", "A tent."),
        Message("user", "And here?"),
    )
    drawn = Candidate("b", "Here.", turns=(Message("assistant", (TextPart("Here."), ImagePart(path))),))
    answers = (Candidate("a", "A red one."), drawn)[: 2 if kind == "pairwise" else 1]
    return Question(Prompt("p", turns, source_id="f.jsonl:3"), answers, kind, order=order, **more)


def shape(written: Written) -> str:
    """The user's message with an image as `@`."""
    content = written.messages[1][1]
    return content if isinstance(content, str) else "".join(p.text if isinstance(p, TextPart) else "@" for p in content)


def test_images_stand_where_they_stood(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 1)
    one = write(load_template("pairwise_en"), asked(path), "label", sees=True)
    assert "user: Look: @ what is it?" in shape(one)
    assert "assistant: A tent.\n\nuser: And here?\n[end question" in shape(one)
    assert shape(one).index("A red one.") < shape(one).index("Here.@\n[end answer B")
    assert "<|im_start|>" not in shape(one), "a marker cannot hide in two halves"
    swapped = write(load_template("pairwise_zh"), asked(path, order=(1, 0)), "json", sees=True)
    assert shape(swapped).index("Here.@") < shape(swapped).index("A red one.")
    assert len(swapped.images) == 2
    for kind in ("pointwise", "rubric"):
        found = write(load_template(f"{kind}_en"), asked(path, kind, criterion="truth" * (kind == "rubric")), "label", sees=True)
        assert shape(found).count("@") == 1
    with pytest.raises(DataError, match=r"prompt p \(f.jsonl:3\) holds images, and this judge reads text alone"):
        write(load_template("pairwise_en"), asked(path), "label")


def test_an_answer_of_several_turns_and_calls_of_tools_are_shown_whole() -> None:
    call = {"function": {"name": "look", "arguments": "{}"}}
    turns = (Message("assistant", "", {"tool_calls": [call]}), Message("tool", "42"), Message("assistant", "It is 42."))
    (text,) = said(turns)
    assert isinstance(text, TextPart)
    assert text.text == f"assistant: {json.dumps([call])}\n\ntool: 42\n\nassistant: It is 42."
    assert said((Message("assistant", "It is 42."),)) == (TextPart("It is 42."),)
    plain, whole = (Question(Prompt("p", text="q"), (Candidate("a", "It is 42.", turns=t),), "pointwise") for t in ((), turns))
    assert plain.content() != whole.content()


def test_a_server_is_sent_content_parts(server: Server, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 1)
    server.reply = lambda body: (200, {}, completion("A", MARKED))
    seeing = judge(server, tmp_path, images=True, image_tokens=1000)
    questions = [asked(path), asked(path, order=(1, 0)), asked(path, "pointwise"), asked(path, "rubric", criterion="truth")]
    said_ = seeing.ask(questions)
    assert not any(s.error for s in said_)
    assert (said_[0].chosen, said_[1].chosen) == ("first", "second")
    for body, images in zip(sorted(server.bodies, key=lambda b: len(json.dumps(b)), reverse=True), (2, 2, 1, 1), strict=True):
        parts = body["messages"][1]["content"]
        urls = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
        assert len(urls) == images
        assert all(base64.b64decode(u.removeprefix("data:image/png;base64,")) == Path(path).read_bytes() for u in urls)
        assert isinstance(body["messages"][0]["content"], str)
    assert seeing.price([asked(path)]) == 0.0, "it is in the journal"

    before = len(server.bodies)
    picture(tmp_path / "a.png", 2)  # another picture under the same path is another question
    assert seeing.price([asked(path, "pointwise")]) == pytest.approx(seeing._most(seeing._ready(asked(path, "pointwise"))))
    seeing.ask([asked(path, "pointwise")])
    assert len(server.bodies) == before + 1
    assert judge(server, tmp_path).identity != seeing.identity


def test_what_an_image_costs_is_known_or_unknown(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 1)
    known, dear, unknown = (judge(None, tmp_path, images=True, **more) for more in ({"image_tokens": 0}, {"image_tokens": 500}, {}))
    assert dear.price([asked(path)]) - known.price([asked(path)]) == pytest.approx(2 * 500 * PRICE["read"] / 1e6)
    assert unknown.price([asked(path)]) is None
    settings: dict[str, Any] = {"url": "http://far/v1", "model": "m", "price": PRICE}
    with pytest.raises(ConfigError, match="nobody knows what an image may cost"):
        checked(EndpointConfig, settings | {"images": True, "budget": 1.0})
    with pytest.raises(ConfigError, match="image_tokens would have no effect"):
        checked(EndpointConfig, settings | {"image_tokens": 5})


def test_an_image_that_is_none_is_a_failure_and_no_call(server: Server, tmp_path: Path) -> None:
    server.reply = lambda body: (200, {}, completion("A", MARKED))
    (tmp_path / "a.png").write_bytes(b"no picture")
    lost, kept = judge(server, tmp_path, images=True).ask([asked(str(tmp_path / "a.png")), asked(picture(tmp_path / "b.png", 1))])
    assert lost.error.startswith("images: image ")
    assert (lost.made, lost.cost) == (False, 0.0)
    assert not kept.error
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("kind", "more", "sent"), [("PNG", {}, "png"), ("JPEG", {}, "jpeg"), ("BMP", {}, "png"), ("JPEG", {"turned": 6}, "png")]
)
def test_pictures_are_sent_as_people_see_them(tmp_path: Path, kind: str, more: dict[str, int], sent: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = more.get("turned", 1)
    path = picture(tmp_path / "a", 1, kind, **({"exif": exif} if more else {}))
    head, _, body = data_url(ImagePart(path)).partition(",")
    assert head == f"data:image/{sent};base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as image:
        assert image.size == ((24, 32) if more else (32, 24))
    assert data_url(ImagePart(f"{head},{body}")) == f"{head},{body}"


def test_who_reads_text_alone_refuses_by_name(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 1)
    blind, seeing = judge(None, tmp_path), judge(None, tmp_path, images=True)
    fake = ScriptedJudge("fake", ScriptedConfig())
    rows = [(asked(path).prompt, asked(path).answers)] * 2 + [(Prompt("q", text="q"), (asked(path).answers[1],))]
    with pytest.raises(DataError, match=r"judge far reads text alone, and 3 rows hold images: f.jsonl:3, q"):
        check_images(blind, rows)
    for who in (seeing, fake, PanelJudge("p", (seeing, fake), 1)):
        check_images(who, rows)
    with pytest.raises(DataError, match="judge p reads text alone"):
        check_images(PanelJudge("p", (seeing, blind), 1), rows)
    check_images(blind, [(Prompt("q", text="q"), (Candidate("a", "x"),))])


def test_a_model_here_looks_at_the_picture(tmp_path: Path) -> None:
    """Another picture, another verdict; the same picture under another name, the same one."""
    here = load_local("here", LocalConfig(model="tiny:llava?seed=1&std=0.5", model_options={"precision": "fp32"}))
    assert here.sees_images
    first, same, other = (picture(tmp_path / f"{k}.png", seed) for k, seed in enumerate((1, 1, 2)))
    for kind in ("pairwise", "pointwise", "rubric"):
        questions = [asked(path, kind, criterion="truth" * (kind == "rubric")) for path in (first, same, other)]
        one, two, three = (dict(s.probabilities or s.scores or {}) for s in here.ask(questions))
        assert one == pytest.approx(two, abs=1e-6)
        assert one != pytest.approx(three, abs=1e-6)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (lost,) = here.ask([asked(str(tmp_path / "broken.png"))])
    assert lost.error.startswith("call: ")
    assert not lost.made
    assert not load_local("there", LocalConfig(model="tiny:llama?seed=1")).sees_images


def test_the_verb_with_images(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of answers with a picture: labelled by a judge that sees, refused by name for one that does not, before any call."""
    server.reply = lambda body: (200, {}, completion("A", MARKED))
    picture(tmp_path / "a.png", 1)
    rows = [
        {"prompt": "What is it?", "images": ["a.png"], "answers": ["a tent", "a rope"]},
        {
            "prompt": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Is it red?"}]}],
            "answers": ["no"],
        },
        {"prompt": "Without any?", "answers": ["yes", "no"]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    far = {"type": "endpoint", "url": server.url, "model": "m", "journal": str(tmp_path / "c.sqlite")}
    judges = {"judges": {"sees": {**far, "images": True}, "blind": far}}
    (tmp_path / "judges.yaml").write_text(json.dumps(judges), encoding="utf-8")
    command = ["judge", str(tmp_path / "rows.jsonl"), "--judges", str(tmp_path / "judges.yaml"), "--out", str(tmp_path / "out.jsonl")]
    assert main([*command, "--judge", "blind", "--override", "blind"]) == 2
    told = capsys.readouterr().err
    assert "judge blind reads text alone, and 2 rows hold images" in told
    assert "rows.jsonl:1" in told
    assert "rows.jsonl:2" in told
    assert server.bodies == []
    assert main([*command, "--judge", "sees", "--override", "sees"]) == 0
    assert len(server.bodies) == 2 * 2 + 1
    assert sum("data:image/png" in json.dumps(b) for b in server.bodies) == 3
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sum("task" in row for row in out) == 3
    rows[0]["images"] = ["a.png", "a.png"]
    rows[0]["prompt"] = "<image> one place"
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    assert main([*command, "--judge", "sees", "--override", "sees"]) == 2
    assert "rows.jsonl:1: images: 2 images for 1 <image> places" in capsys.readouterr().err
