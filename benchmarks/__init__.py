"""Timings. Run `make bench`; they print figures and assert nothing."""
