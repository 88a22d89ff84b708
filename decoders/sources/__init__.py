"""Where physical memory comes from, behind one small protocol."""
