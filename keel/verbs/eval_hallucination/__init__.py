"""`keel eval hallucination`: hallucination measures of a file of answers."""
