"""The demo: real street frames and a real detector, both from the package index."""
