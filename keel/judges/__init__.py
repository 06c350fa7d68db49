"""Judges: models that say which answer is better. What they are asked, who asks them, what an answer costs, and what is kept of it."""
