"""Feedback from other tools and for them: one file a format, the table of them in ``table.py``. No database."""
