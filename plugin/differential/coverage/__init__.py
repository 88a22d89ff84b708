"""Which basic blocks of the kernel's modules ran."""
