"""Directed interleavings of a live kernel: operations are held at places of its code."""
