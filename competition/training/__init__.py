"""Prepared data -> runs/<name>/, resumable: `train_run(config, data, weights, runs)`."""
