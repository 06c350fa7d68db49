"""The web app for people: the annotator's page, the manager's pages, and the JSON API under both. No torch, no models, no mathematics."""
