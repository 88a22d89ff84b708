"""The decoding half, in our own environment: it asks GDB for bytes and answers commands."""
