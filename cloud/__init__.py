"""Running the image on the batch services of the clouds; README.md in this folder says how."""
