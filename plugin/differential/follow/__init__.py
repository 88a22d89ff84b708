"""Following a running kernel: its own calls are the model's input, and each is checked."""
