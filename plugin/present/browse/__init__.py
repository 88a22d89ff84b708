"""The browser in the terminal: VMs, slots, chains, trees, walks."""
