"""The GDB/MI bridge. The only package that imports pygdbmi."""
