"""A competition harness for blood cell pictures: from a noisy training file to a verified submission zip."""
