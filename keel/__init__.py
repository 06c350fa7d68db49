"""Keel: align language models and vision-language models with what people prefer."""

__version__ = "0.1.0"
