"""`keel serve policy`: settings to engines, and the process that holds a model."""
