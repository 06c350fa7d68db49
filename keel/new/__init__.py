"""`keel new`: a project to start from: a recipe, data, the next commands."""
