"""What each part of a recipe is good for: it is switched off, over seeds, and the difference is told with its interval."""
