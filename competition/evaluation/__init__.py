"""Trained runs -> metrics.json, predictions, leaderboard: `evaluate_run`, `write_leaderboard`."""
