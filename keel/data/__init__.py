"""Readers, layouts, conversion, batching and measures of text. Start at ``dataset.read`` and ``layouts.LAYOUTS``."""
