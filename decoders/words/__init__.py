"""The words of the radix MMU and of the nested reverse map, one format a file."""
