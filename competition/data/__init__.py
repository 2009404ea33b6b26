"""Training file or folder -> splits.npz, prepared/: `load_dataset`, `split`, `prepare`."""
