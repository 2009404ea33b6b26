"""Trained runs -> metrics.json, predictions, leaderboard: `evaluate`, `write_leaderboard`."""
