"""What GDB loads: commands, functions, printers, and the target's memory for the worker.

GDB's Python is not ours: only the standard library is imported here, and the syntax
is that of Python 3.6, which GDB 12 is still built with.
"""
