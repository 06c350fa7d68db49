"""A model that is not here, from its numbers: ``hidden=8192,layers=80,heads=64,kv_heads=8,intermediate=28672,vocab=128256``."""

from __future__ import annotations

from keel.core.errors import ConfigError
from keel.plan.size import Size

_NEEDED = ("hidden", "layers", "vocab")
_KNOWN = (*_NEEDED, "heads", "kv_heads", "head_dim", "intermediate", "tied", "tower", "image_tokens", "image_size")


def read_shape(text: str) -> Size:
    """The size of a decoder with gated MLPs of these numbers. ``heads`` is hidden / 128 unless given, ``kv_heads`` the heads,
    ``intermediate`` 4 hidden, ``tied`` 0; ``tower`` are the parameters of what reads images, of ``image_size`` pixels a side (336).
    Raises ConfigError for words that are no such number."""
    given = dict(_pair(word) for word in text.split(",") if word.strip())
    missing = [name for name in _NEEDED if name not in given]
    if missing:
        raise ConfigError(f"--shape {text}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing", _HINT)
    return decoder(**given)


def decoder(
    hidden: int,
    layers: int,
    vocab: int,
    heads: int = 0,
    kv_heads: int = 0,
    head_dim: int = 0,
    intermediate: int = 0,
    tied: int = 0,
    tower: int = 0,
    image_tokens: int = 0,
    image_size: int = 336,
) -> Size:
    """See ``read_shape``. A layer has ``H (2 q + 2 k) + 3 H I`` weights in matrices (q, k: widths of queries and keys) and two norms."""
    heads = heads or max(1, hidden // 128)
    kv_heads, head_dim, intermediate = kv_heads or heads, head_dim or hidden // heads, intermediate or 4 * hidden
    queries, keys = heads * head_dim, kv_heads * head_dim
    layer = hidden * (2 * queries + 2 * keys) + 3 * hidden * intermediate
    ports = 2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + intermediate)
    tables = vocab * hidden * (1 if tied else 2)
    norms = hidden * (2 * layers + 1)
    return Size(
        parameters=layers * layer + tables + norms + tower,
        body=layers * layer,
        head=vocab * hidden,
        ports=layers * ports,
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        cache=2 * keys,
        vocab=vocab,
        bytes_per_token=4.0,
        linear=layers * layer + tower,
        largest=hidden * max(intermediate, queries),
        sides=layers * ports + (1 if tied else 2) * (vocab + hidden) + norms,
        tower=tower,
        image_tokens=image_tokens,
        pixels=3 * image_size * image_size if image_tokens else 0,
    )


_HINT = "e.g. --shape hidden=8192,layers=80,heads=64,kv_heads=8,intermediate=28672,vocab=128256; known: " + ", ".join(_KNOWN)


def _pair(word: str) -> tuple[str, int]:
    name, _, value = word.strip().partition("=")
    least = 0 if name in ("tied", "tower", "image_tokens") else 1
    try:
        number = int(float(value))
        if name not in _KNOWN or number != float(value) or number < least:
            raise ValueError
    except (ValueError, OverflowError):
        raise ConfigError(f"--shape: '{word.strip()}' is no number of a model", _HINT) from None
    return name, number
