"""The processors that make pixels of images and placeholders of text, without torchvision: images only, no video.

transformers scales images with torchvision where that is installed and with PIL elsewhere, and their pixels differ. A model that was
trained on one machine would see other pixels on the next, so PIL's are taken everywhere.
"""

from __future__ import annotations

import inspect
import logging
import types
from collections.abc import Mapping
from typing import Any

import transformers

log = logging.getLogger("keel")


def read_processor(name: str, common: Mapping[str, Any]) -> Any:
    """The processor of a folder or Hub id; where it asks for packages that only video needs, the same class without its video part.
    Raises what transformers raises."""
    try:
        found = transformers.AutoProcessor.from_pretrained(name, **common)
    except (ImportError, ValueError, OSError):
        settings, _ = transformers.ProcessorMixin.get_processor_dict(name)
        found = image_only(getattr(transformers, settings["processor_class"])).from_pretrained(name, **common)
    if "Torchvision" in _backend(getattr(found, "image_processor", None)):
        found.image_processor = transformers.AutoImageProcessor.from_pretrained(name, backend="pil", **common)
        if "Torchvision" in _backend(found.image_processor):
            log.warning(
                "%s: images are scaled by torchvision, there is no other way for them: where it is missing or newer, pixels may differ",
                name,
            )
    return found


def _backend(images: Any) -> str:
    """Names of what scales the images, by the classes that the processor is made of."""
    return " ".join(cls.__name__ for cls in type(images).__mro__)


def image_only(cls: type[Any]) -> type[Any]:
    """A processor class without its video part, with all its other settings. It keeps its name: a saved folder says so and loads in plain
    transformers.

    transformers reads the names of settings off the constructor, at loading and at saving. So the constructor stays the class's own, with
    a default for every part, and only the list of parts is shorter.
    """
    own: Any = cls.__init__
    if "video_processor" not in inspect.signature(own).parameters:
        return cls
    names = own.__code__.co_varnames[1 : own.__code__.co_argcount]
    given: Mapping[str, Any] = inspect.signature(own).parameters
    defaults = tuple(None if given[n].default is inspect.Parameter.empty else given[n].default for n in names)
    known = dict(own.__globals__)
    if known.get("num2words", _no_video) is None:  # a package that writes numbers of frames: it is asked for even where no video is
        known["num2words"] = _no_video
    init = types.FunctionType(own.__code__, known, own.__name__, defaults, own.__closure__)
    init.__kwdefaults__ = own.__kwdefaults__
    init.__annotations__ = dict(own.__annotations__)

    def get_attributes(found: Any) -> list[str]:
        return [name for name in cls.get_attributes() if name != "video_processor"]

    body = {"__init__": init, "__module__": cls.__module__, "get_attributes": classmethod(get_attributes)}
    return type(cls.__name__, (cls,), body)


def _no_video(*_: Any) -> str:
    raise NotImplementedError("videos are not read")
