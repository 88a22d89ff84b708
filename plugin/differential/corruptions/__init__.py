"""Corruptions of a kernel's memory, each of which one rule of the audit must notice.

They prove the audit: on images of the model, on captures, on a live lab machine. Only
tests use them; nothing here runs unless it is called with a target of its own.
"""
