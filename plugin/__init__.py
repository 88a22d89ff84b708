"""The outside world: GDB/MI, QEMU, the command line, differential runs."""
