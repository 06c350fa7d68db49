"""`keel sweep`: temperature and top-p by a scorer."""
