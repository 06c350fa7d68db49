"""What does not belong into data: duplicates, contradictions, poor texts, questions of the evaluation. Taken out by name."""
