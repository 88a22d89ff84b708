"""Campaigns: many programs against real kernels; what is found is shrunk and written down."""
