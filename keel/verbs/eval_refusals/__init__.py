"""`keel eval refusals FILE`."""
