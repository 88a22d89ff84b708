"""A State laid out as physical memory, in the exact layout of a given kernel's types."""
