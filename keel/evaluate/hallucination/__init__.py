"""Hallucination of vision-language models, measured on files of answers: CHAIR, POPE, AMBER, MMHal-Bench and HallusionBench.

A file a measure, all of them in ``table.py``. Each has two modes: ``original`` counts as the published script does, its quirks included;
``fixed`` mends the quirks. No measure loads a model.
"""
