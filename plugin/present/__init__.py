"""How results look: tables and figures for the terminal."""
