"""`keel annotate`: people judge, in the browser."""
