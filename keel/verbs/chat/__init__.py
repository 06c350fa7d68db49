"""`keel chat`: in the terminal, or as a page."""
