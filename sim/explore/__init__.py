"""The explorer: every interleaving of a few kernel paths, judged after every section."""
