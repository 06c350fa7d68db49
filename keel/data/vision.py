"""Converters of data sets of images with text: captions, objects, regions, questions with choices, conversations, preferences."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from keel.data.choices import answered, checked_options, is_chinese, letter_of, options_of, written
from keel.data.converters import Meta, common_turns, identity, make_demonstration, preference
from keel.data.errors import FieldError
from keel.data.fields import IMAGE_MARK, Fields, as_number, make_prompt, tidy_marks
from keel.data.rows import json_type, parse_json
from keel.types import Demonstration, Message, Pair, Prompt

# The first bytes of the formats that images on the web have
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
_SHORTEST_IMAGE = 65  # characters of base64: an image's header alone has more
LETTER_COLUMNS = tuple("ABCDEFGHI")


# --- captions, objects, regions -------------------------------------------------------------------------------------------------


def image_caption(fields: Fields, meta: Meta) -> Demonstration:
    """An image and one caption of it."""
    caption = fields.text("caption")
    asked = "用一句话描述这张图片。" if is_chinese(caption) else "Describe the image in one sentence."
    return _said(fields, asked, caption, meta)


def image_objects(fields: Fields, meta: Meta) -> Prompt:
    """An image whose objects are known: ``instances`` as detectors write them, their names under ``objects``."""
    instances = fields.get("instances")
    if not isinstance(instances, list) or not all(isinstance(entry, dict) for entry in instances):
        raise FieldError("instances", f"must be a list of objects, is {json_type(instances)}")
    return make_prompt(fields, (Message("user", "Describe the image."),), None, {**meta, "instances": instances})


def image_region(fields: Fields, meta: Meta) -> Demonstration:
    """A part of an image and what is said of it. The box is told in pixels, with the image's size where it is known."""
    phrase, box = fields.text("phrase"), [as_number(f"box.{i}", v) for i, v in enumerate(fields.list("box"))]
    if len(box) != 4:
        raise FieldError("box", f"must be x, y, width, height, has {len(box)} numbers")
    x, y, width, height = (f"{v:g}" for v in box)
    size = [f"{as_number(f'image_size.{i}', v):g}" for i, v in enumerate(fields.list("image_size"))] if "image_size" in fields else []
    if len(size) not in (0, 2):
        raise FieldError("image_size", f"must be width, height, has {len(size)} numbers")
    if is_chinese(phrase):
        whole = f"图片大小为 {size[0]} x {size[1]} 像素。" if size else ""
        asked = f"{whole}请描述图片中这个方框里的内容（像素，从左上角算起）：x={x}，y={y}，宽={width}，高={height}。"
    else:
        whole = f"The image is {size[0]} x {size[1]} pixels. " if size else ""
        place = f"x={x}, y={y}, width={width}, height={height}"
        asked = f"{whole}Describe what is in this box of the image (pixels, from its top left corner): {place}."
    return _said(fields, asked, phrase, {**meta, "box": box})


def _said(fields: Fields, asked: str, answer: str, meta: Meta) -> Demonstration:
    prompt = make_prompt(fields, (Message("user", asked),), None, meta)
    turns = (Message("assistant", answer),)
    return Demonstration(identity(fields, prompt, turns), prompt, turns)


# --- questions with choices -----------------------------------------------------------------------------------------------------


def a_okvqa(fields: Fields, meta: Meta) -> Demonstration:
    """A question with choices and, where there is one, the first reason that people gave; all of them stay in ``reasons``."""
    question, options = fields.text("question"), options_of("choices", fields.get("choices"))
    place = as_number("correct_choice_idx", fields.need("correct_choice_idx"))
    if place not in range(len(options)):
        raise FieldError("correct_choice_idx", f"must be a whole number from 0 to {len(options) - 1}, is {place:g}")
    reasons = [r.strip() for r in _texts(fields, "rationales") if r.strip()]
    letter = list(options)[int(place)]
    prompt = _question_of(fields, written(question, options, bool(reasons)), options, meta, letter, reasons)
    answer = answered(letter, reasons[0] if reasons else "", is_chinese(question))
    turns = (Message("assistant", answer),)
    return Demonstration(identity(fields, prompt, turns), prompt, turns)


def a_okvqa_prompt(fields: Fields, meta: Meta) -> Prompt:
    """The same without its answer, as test sets are."""
    options = options_of("choices", fields.get("choices"))
    return _question_of(fields, written(fields.text("question"), options), options, meta, None, [])


def _question_of(fields: Fields, text: str, options: Mapping[str, str], meta: Meta, letter: str | None, reasons: list[str]) -> Prompt:
    given = fields.get("image_id")
    if "image" not in fields and "images" not in fields and given is not None:  # COCO's images are named by their ids
        number = as_number("image_id", given)
        fields.values["image"] = f"{int(number):012d}.jpg"
    named = {"image_id": given} if given is not None else {}
    known = {"ground_truth": letter} if letter is not None else {}
    told = {"reasons": reasons} if reasons else {}
    return make_prompt(fields, (Message("user", text),), None, {**meta, **named, "choices": dict(options), **known, **told})


def _texts(fields: Fields, name: str) -> list[str]:
    if name not in fields or fields.get(name) == []:
        return []
    return fields.list(name, str)


def mmbench(fields: Fields, meta: Meta) -> Prompt:
    """A question with a column an option (A, B ...) and the right letter under ``answer``, where it is known. ``image`` is a path or the
    image itself in base64."""
    found = {letter: (letter, fields.need(letter)) for letter in LETTER_COLUMNS if _filled(fields.get(letter))}
    gap = next((letter for i, letter in enumerate(found) if letter != LETTER_COLUMNS[i]), None)
    if gap is not None:
        raise FieldError(LETTER_COLUMNS[list(found).index(gap)], f"is empty, but option {gap} is not")
    if len(found) < 2:
        raise FieldError("B", "is empty: a question needs at least two options")
    options = checked_options(found)
    known = {"ground_truth": letter_of("answer", fields.need("answer"), options)} if _filled(fields.get("answer")) else {}
    for name in ("image", "images"):
        if name in fields:
            fields.values[name] = _embedded(name, fields.values[name])
    text = written(fields.text("question"), options, hint=fields.optional_text("hint"))
    return make_prompt(fields, (Message("user", text),), None, {**meta, "choices": options, **known})


def _filled(value: Any) -> bool:
    return value is not None and bool(str(value).strip())


def _embedded(name: str, value: Any) -> Any:
    """Images in base64 as ``data:`` URLs; paths, and images in other forms, as they are."""
    if isinstance(value, list | tuple):
        return [_embedded(f"{name}.{i}", entry) for i, entry in enumerate(value)]
    if isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit()):
        raise FieldError(name, f"{value} is the index of no row that holds an image")
    if not isinstance(value, str) or len(value) < _SHORTEST_IMAGE or value.startswith(("data:", "http://", "https://")):
        return value
    text = "".join(value.split())
    try:
        head = base64.b64decode(text, validate=True)[:8]
    except binascii.Error as error:
        if "." in value[-6:]:  # a long path
            return value
        raise FieldError(name, f"is neither a path nor base64 that can be decoded: {error}") from None
    if not head.startswith(_MAGIC):
        raise FieldError(name, "is base64, but of no image (JPEG, PNG, GIF, WebP, BMP, TIFF)")
    return "data:image;base64," + text


# --- conversations and preferences ----------------------------------------------------------------------------------------------


def llava(fields: Fields, meta: Meta) -> Demonstration:
    """A conversation with images where ``<image>`` stands, or before the first question."""
    turns, images = fields.messages("conversations"), fields.images()
    first = next((m.text.strip() for m in turns if m.role == "user"), "")
    if not images and (first.startswith(IMAGE_MARK) or first.endswith(IMAGE_MARK)):
        raise FieldError("image", f"is missing, and the question has {IMAGE_MARK}")
    return make_demonstration(fields, tidy_marks(turns, images), meta, "conversations")


def povid(fields: Fields, meta: Meta) -> Pair:
    """Two whole conversations; the prompt is what they begin with."""
    names, images = ("conversations", "rejected_conversations"), fields.images()
    chosen, rejected = (tidy_marks(fields.messages(name), images) for name in names)
    return common_turns(fields, chosen, rejected, meta, names)


def rlhf_v(fields: Fields, meta: Meta) -> Pair:
    """RLHF-V keeps question, chosen and rejected as JSON under ``text``."""
    found = json_text(fields.get("text"))
    if not found:
        raise FieldError("text", "must be JSON with question, chosen and rejected")
    return _asked_pair(_with(fields, found), meta, "text.")


def question_preference(fields: Fields, meta: Meta) -> Pair:
    """A question, a better and a worse answer; the image under ``image``, or its path under ``image_path``."""
    return _asked_pair(_with(fields, {}), meta, "")


def json_text(value: Any) -> dict[str, Any]:
    """The object that a column holds, or that its text is as JSON; {} where it is none."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = parse_json(value)
        except json.JSONDecodeError:
            return {}
    return value if isinstance(value, dict) else {}


def _with(fields: Fields, more: Mapping[str, Any]) -> Fields:
    inner = Fields(fields.raw, {})
    inner.values = {**fields.values, **{k: v for k, v in more.items() if v is not None}}
    return inner


def _asked_pair(fields: Fields, meta: Meta, prefix: str) -> Pair:
    """A pair of ``question``, ``chosen``, ``rejected``; complaints name them behind ``prefix``."""
    values = fields.values
    if "image" not in fields and "images" not in fields and fields.optional_text("image_path"):
        values["image"] = values["image_path"]
    try:
        for name in ("question", "chosen", "rejected"):
            fields.text(name)
        marked = tidy_marks((Message("user", values["question"]),), fields.images())
        values["prompt"] = marked[0].text
        return preference(fields, meta)
    except FieldError as error:
        field = "question" if error.field == "prompt" else error.field
        raise FieldError(prefix + field if field in ("question", "chosen", "rejected") else field, error.reason) from None
