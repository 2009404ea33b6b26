"""A drawn competition: `make_demo(folder, seed)` writes training_set.npz and a hidden test."""
