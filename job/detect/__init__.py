"""The detector: its configuration, its weights, its class probabilities, and the map step that runs it."""
