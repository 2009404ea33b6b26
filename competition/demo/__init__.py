"""A competition for who has no data: `make_demo(folder, seed)` writes training_set.npz and a hidden test."""
