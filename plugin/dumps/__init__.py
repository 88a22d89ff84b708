"""Dumps that nestscope writes: captures of what reading needs, and whole memories for drgn."""
