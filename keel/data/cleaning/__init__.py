"""What does not belong into data: duplicates, contradictions, low quality, questions of the evaluation. Taken out by name, never silently."""
