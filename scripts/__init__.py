"""Scripts for building the image and the documentation."""
