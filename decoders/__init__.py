"""From bytes to typed values to a `State`. Imports no other folder of nestscope."""
