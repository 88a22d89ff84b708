"""Proof that the tests can fail: the model with one thing wrong, many times."""
