"""The Lightly platform: its API, and the upload of a run's results to it."""
