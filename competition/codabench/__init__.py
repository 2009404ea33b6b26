"""The competition's server at home: its two programs, runs of them, and the bundle that a teacher uploads."""
