"""A harness for blood cell competitions: from a noisy training file to a verified zip."""
