"""nestscope inside GDB: a thin layer in GDB's own Python, and a worker that decodes.

`inside` is all that GDB loads: the standard library only, for any Python from 3.6
on. `worker` runs in our own environment, at the other end of a pipe.
"""
