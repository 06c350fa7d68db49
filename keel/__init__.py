"""Keel: align language models and vision-language models with what people prefer."""

import os

# oneDNN keeps a compiled kernel for every shape of a product in bfloat16, a thousand of them unless told otherwise; batches without padding
# have ever new shapes, so memory would grow for many steps.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

__version__ = "0.1.0"
