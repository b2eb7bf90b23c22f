"""``make demo``: a simulated plant, the real programs, and a table of what was noticed when."""
