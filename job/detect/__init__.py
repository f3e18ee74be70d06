"""The detector: its configuration and weights, its class probabilities, and the map step that runs it."""
