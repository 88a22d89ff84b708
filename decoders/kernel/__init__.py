"""The kernel in memory: symbols, types, address translation, objects."""
