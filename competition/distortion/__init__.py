"""How hidden tests may look: `distort(images, profile, seed)` of the named profiles `PROFILES`."""
