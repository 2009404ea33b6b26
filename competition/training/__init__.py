"""Prepared data -> runs/<name>/, resumable: `run_training(config, prepared, weights, runs)`."""
