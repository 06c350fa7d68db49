"""transformers' progress bars and reports, switched off where Keel says itself what matters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import modeling_gguf_pytorch_utils as gguf
from transformers.utils import logging as hf


@contextmanager
def quiet() -> Iterator[None]:
    """No bars, no reports and no deprecations of transformers' own code inside; as before afterwards."""
    bars, level = hf.is_progress_bar_enabled(), hf.get_verbosity()
    hf.disable_progress_bar()
    own_bar = getattr(gguf, "tqdm")  # noqa: B009 # the reader of GGUF files has a bar that does not ask
    setattr(gguf, "tqdm", hf.tqdm)  # noqa: B010 (a typed module has no such attribute to set)
    hf.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            yield
    finally:
        setattr(gguf, "tqdm", own_bar)  # noqa: B010
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()
