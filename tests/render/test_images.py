from __future__ import annotations

import base64
import hashlib
import inspect
import io
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from keel.core.errors import DataError
from keel.models import tiny
from keel.models.media import MediaStore
from keel.models.pictured import reading_of
from keel.models.tiny_vision import FAMILIES
from keel.render.config import RenderConfig
from keel.render.pixels import open_image
from keel.render.renderer import Refusal, Renderer
from keel.render.show import explain
from keel.types import Demonstration, ImagePart, Message, Pair, Prompt, TextPart

PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for p in m.content %}"
    "{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def picture(colour: int, size: tuple[int, int] = (56, 56)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (colour, 10, 200)).save(out, "PNG")
    return out.getvalue()


def url(raw: bytes) -> ImagePart:
    return ImagePart("data:image/png;base64," + base64.b64encode(raw).decode())


def ask(*parts: ImagePart | str, name: str = "p") -> Prompt:
    return Prompt(name, (Message("user", tuple(TextPart(p) if isinstance(p, str) else p for p in parts)),))


def llava(tokenizer, template):
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    settings = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return transformers.LlavaProcessor(image_processor=images, tokenizer=tokenizer, chat_template=template, **settings)


def idefics3(tokenizer, template):
    class NoVideo(transformers.Idefics3Processor):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **settings):
            super().__init__(image_processor=image_processor, tokenizer=tokenizer, chat_template=chat_template, **settings)

    assert "video_processor" not in inspect.signature(NoVideo.__init__).parameters
    images = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 56}, do_image_splitting=False
    )
    return NoVideo(image_processor=images, tokenizer=tokenizer, image_seq_len=4, chat_template=template)


@pytest.fixture(params=[(llava, PARTS), (llava, TEXT), (idefics3, PARTS)], ids=["llava", "llava-text-template", "idefics3"])
def renderer(request, tokenizers, store):
    make, template = request.param
    return Renderer(tokenizers["none"], make(tokenizers["none"], template), RenderConfig(), store)


def test_placeholders_are_expanded_and_pixels_stored(renderer, store):
    raw = picture(10)
    encoded = renderer.prompt(ask(url(raw), "Name a colour."))
    token = renderer.tokenizer.convert_tokens_to_ids("<image>")
    (ref,) = encoded.media
    assert ref.digest == f"{hashlib.sha256(raw).hexdigest()}-{renderer.images.settings}"
    assert ref.n_tokens == 4 == encoded.tokens_T.tolist().count(token)
    assert store.get(ref.digest)["pixel_values"].shape[-3:] == (
        (3, 28, 28) if "Llava" in type(renderer.images.processor).__name__ else (3, 56, 56)
    )
    assert not any("ids" in k for k in store.get(ref.digest))


def test_ids_are_the_processors_own(renderer):
    prompt = ask("first ", url(picture(10)), " then ", url(picture(250, (40, 64))), " which?")
    encoded = renderer.prompt(prompt)
    text = renderer.template.render(prompt.messages, True)
    images = [Image.open(io.BytesIO(r)) for r in (picture(10), picture(250, (40, 64)))]
    theirs = renderer.images.processor(text=[text], images=[images], return_tensors="pt", add_special_tokens=False)["input_ids"][0]
    assert encoded.tokens_T.tolist() == theirs.tolist()
    assert sum(m.n_tokens for m in encoded.media) == encoded.tokens_T.tolist().count(renderer.images.token_id)


def test_an_image_is_processed_once_whatever_stands_beside_it(renderer, store):
    big, small = url(picture(10, (80, 60))), url(picture(10, (8, 8)))
    alone = renderer.prompt(ask(big, "a")).media[0]
    pixels = store.get(alone.digest)["pixel_values"].clone()
    both = renderer.prompt(ask(small, big, "b", name="q"))
    assert both.media[1] == alone
    assert store.puts == 2
    assert store.get(alone.digest)["pixel_values"].equal(pixels)  # the small one did not change its size


def test_pairs_share_the_image_and_no_image_token_is_trained(renderer, store):
    prompt = ask(url(picture(10)), "Name a colour.")
    unit = renderer.unit(Pair("x", prompt, (Message("assistant", "Red."),), (Message("assistant", "Blue."),)))
    assert store.puts == 1
    assert len(unit.prompt.media) == 1
    for branch in unit.branches:
        assert renderer.images.token_id not in branch.tokens_T.tolist()
        assert branch.trained_T.all()
    assert renderer.decode(unit.branches[0].tokens_T) == "Red."


def test_placeholder_written_into_text_is_refused(renderer):
    for prompt in (ask(url(picture(1)), "what is <image>?"), Prompt("p", (Message("user", "what is <image>?"),))):
        refusal = renderer.unit(prompt)
        assert isinstance(refusal, Refusal)
        assert "image placeholders" in refusal.reason
    answer = renderer.unit(Demonstration("d", ask(url(picture(1)), "?"), (Message("assistant", "an <image>"),)))
    assert isinstance(answer, Refusal)
    assert "placeholder" in answer.reason


def test_text_only_prompts_need_no_image(renderer):
    encoded = renderer.prompt(Prompt("p", (Message("user", "Name a colour."),)))
    assert encoded.media == ()
    assert renderer.tokenizer.decode(encoded.tokens_T) == "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n"


def test_broken_and_missing_images_are_refused(renderer, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    for source in (str(tmp_path / "missing.png"), str(tmp_path / "broken.png"), "data:image/png;base64,%%%"):
        refusal = renderer.unit(ask(ImagePart(source), "?"))
        assert isinstance(refusal, Refusal)
        assert "image" in refusal.reason


def test_later_images_belong_to_the_prompt_of_the_turn_behind_them(tokenizers, store):
    demo = Demonstration(
        "d",
        ask(url(picture(1)), "one"),
        (Message("assistant", "a"), Message("user", (url(picture(2)), TextPart("two"))), Message("assistant", "b")),
    )
    processor = llava(tokenizers["none"], PARTS)
    first, second = Renderer(tokenizers["none"], processor, RenderConfig(), store).units_of(demo)
    assert [len(u.prompt.media) for u in (first, second)] == [1, 2]
    unit = Renderer(tokenizers["none"], processor, RenderConfig(loss_on="last"), store).unit(demo)
    assert len(unit.prompt.media) == 2


def test_an_over_long_prompt_is_never_cut_through_an_image(tokenizers, store):
    processor = llava(tokenizers["none"], PARTS)
    prompt = Prompt("p", (*ask(url(picture(1)), "one").messages, Message("assistant", "a"), Message("user", "three")))
    n = len(Renderer(tokenizers["none"], processor, RenderConfig(), store).prompt(Prompt("q", (Message("user", "three"),))))
    short = Renderer(tokenizers["none"], processor, RenderConfig(max_prompt=n, over_long="drop_turns"), store).prompt(prompt)
    assert short.media == ()
    assert processor.tokenizer.convert_tokens_to_ids("<image>") not in short.tokens_T.tolist()


def test_banned_tokens_hold_every_image_token(renderer):
    ids = {renderer.tokenizer.convert_tokens_to_ids("<image>")}
    if "Llava" not in type(renderer.images.processor).__name__:
        ids |= set(renderer.tokenizer.convert_tokens_to_ids(["<fake_token_around_image>", "<global-img>"]))
    assert ids <= set(renderer.banned_tokens)
    assert not set(renderer.stop_tokens) & set(renderer.banned_tokens)


def test_explain_shows_images_as_spans(renderer):
    unit = renderer.unit(Demonstration("d", ask(url(picture(1)), "?"), (Message("assistant", "Red."),)))
    shown = explain(renderer, unit).plain
    assert shown.count("[image x4]") == 1
    assert "<image>" not in shown
    assert shown.endswith("Red.<|im_end|>")


# -------------------------------------------------------------------------------------------------------------------- odd images


def opened(image: Image.Image, kind: str = "PNG", **more: Any) -> np.ndarray:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return np.asarray(open_image(out.getvalue(), "it"))


def test_a_camera_held_upright() -> None:
    """Orientation 6: the picture lies on its side in the file."""
    image = Image.new("RGB", (4, 2), "blue")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = opened(image, "PNG", exif=exif)
    assert pixels.shape == (4, 2, 3)
    assert pixels[0, 1].tolist() == [255, 0, 0], "the upper left corner comes to the upper right"


def test_sixteen_bits_are_scaled() -> None:
    values = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    assert opened(Image.fromarray(values))[0, :, 0].tolist() == [0, 1, 100, 255]


def test_numbers_without_a_scale_are_refused() -> None:
    with pytest.raises(DataError, match="image it holds numbers of mode 'F', whose scale is not known"):
        opened(Image.fromarray(np.array([[0.5, 3.0]], dtype=np.float32)), "TIFF")
    with pytest.raises(DataError, match="image it holds numbers of mode 'I'"):
        opened(Image.fromarray(np.array([[-1, 70000]], dtype=np.int32)), "TIFF")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    """Red that nobody sees, half-seen black, and red in full."""
    image = Image.new("RGBA", (3, 1))
    for x, pixel in enumerate([(255, 0, 0, 0), (0, 0, 0, 128), (255, 0, 0, 255)]):
        image.putpixel((x, 0), pixel)
    if mode == "P":
        image = Image.new("P", (3, 1), 1)
        image.putpalette([0, 0, 0, 255, 0, 0])
        pixels = opened(image, "PNG", transparency=1)
        assert pixels[0].tolist() == [[255, 255, 255]] * 3
        return
    pixels = opened(image.convert(mode))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == [127, 127, 127]
    assert pixels[0, 2].tolist() == ([255, 0, 0] if mode == "RGBA" else [76, 76, 76])


def test_a_picture_too_large_to_decode_is_refused_with_its_file(renderer, tmp_path) -> None:
    """Of a few kilobytes and 400 million pixels."""
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    refusal = renderer.unit(ask(ImagePart(str(tmp_path / "bomb.png")), "?"))
    assert isinstance(refusal, Refusal)
    assert "bomb.png" in refusal.reason
    assert "too large" in refusal.reason


def test_refusals_name_the_file(renderer, tmp_path) -> None:
    (tmp_path / "cut.png").write_bytes(picture(1)[:60])
    refusal = renderer.unit(ask(ImagePart(str(tmp_path / "cut.png")), "?"))
    assert isinstance(refusal, Refusal)
    assert "cut.png" in refusal.reason


@pytest.mark.parametrize(
    "image", [Image.new("L", (5, 4), 9), Image.new("CMYK", (5, 4)), Image.new("RGB", (1, 60)), Image.new("1", (300, 1))]
)
def test_common_kinds_are_read(image: Image.Image) -> None:
    kind = "TIFF" if image.mode == "CMYK" else "PNG"
    assert np.array_equal(opened(image, kind), np.asarray(image.convert("RGB")))


# ------------------------------------------------------------------------------------------------------------- processors of families


def family(name: str, text: str = "") -> Renderer:
    """A tiny family's renderer; ``text`` teaches its tokenizer more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "_CORPUS", [*tiny._CORPUS, *[text] * 50] if text else tiny._CORPUS)
        module, tokenizer, processor = tiny.build(tiny.parse(f"tiny:{name}?vocab=700", 0))
    return Renderer(tokenizer, processor, RenderConfig(), MediaStore(), reading=reading_of(module))


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "paligemma"])
def test_ids_of_a_family_are_its_processors_own(name: str) -> None:
    renderer = family(name)
    prompt = ask("first ", url(picture(10, (30, 70))), "\n\nthen", url(picture(250, (64, 40))), " which?")
    encoded = renderer.prompt(prompt)
    text = renderer.template.render(prompt.messages, True)
    theirs = renderer.images.processed(text, prompt.messages)["input_ids"][0].tolist()
    assert encoded.tokens_T.tolist() == theirs
    assert theirs.count(renderer.images.token_id) == sum(ref.n_tokens for ref in encoded.media)
    assert renderer.images.token_id in renderer.banned_tokens


def test_line_breaks_that_join_around_an_image() -> None:
    """Gemma 3 stands an image between empty lines, and its tokenizer has a token for several line breaks: the text is put in whole."""
    renderer = family("gemma3_vision", "a\n\n\nb\n\n\n\nc\n\n\n")
    breaks = renderer.codec.encode("\n\n\n")
    assert len(breaks) == 1
    prompt = ask(url(picture(10)), "which?")
    ids = renderer.prompt(prompt).tokens_T.tolist()
    assert ids.count(breaks[0]) == 1, "one line break of the template and two of the image"
    assert ids == renderer.images.processed(renderer.template.render(prompt.messages, True), prompt.messages)["input_ids"][0].tolist()


def test_gemma_names_the_beginning_of_an_image_its_image_token() -> None:
    renderer = family("gemma3_vision")
    soft, begin = (renderer.tokenizer.convert_tokens_to_ids(t) for t in ("<image_soft_token>", "<start_of_image>"))
    encoded = renderer.prompt(ask(url(picture(1)), "?"))
    assert (renderer.images.token_id, encoded.media[0].n_tokens) == (soft, 4)
    assert {soft, begin} <= set(renderer.banned_tokens)
    ((first, end),) = encoded.spans
    assert encoded.tokens_T[first:end].tolist() == [soft] * 4


def test_paligemma_reads_what_the_template_writes() -> None:
    """Its processor would put a beginning behind the image and a line break behind all."""
    renderer = family("paligemma")
    encoded = renderer.prompt(ask(url(picture(1)), "which?"))
    text = renderer.tokenizer.decode(encoded.tokens_T)
    assert text == "<|im_start|>user\n" + "<image>" * 4 + "which?<|im_end|>\n<|im_start|>assistant\n"
    assert encoded.spans == ((0, len(encoded)),)
    alone = renderer.prompt(Prompt("t", (Message("user", "which?"),)))
    assert alone.spans == ((0, len(alone)),), "without an image too"


def test_two_processors_share_a_store(tokenizers, store) -> None:
    """The same bytes at another size are another image."""
    small, large = (llava(tokenizers["none"], PARTS) for _ in range(2))
    large.image_processor.size = {"shortest_edge": 56}
    part = url(picture(10, (80, 60)))
    refs = [Renderer(tokenizers["none"], p, RenderConfig(), store).prompt(ask(part, "a")).media[0] for p in (small, large, small)]
    assert refs[0] == refs[2] != refs[1]
