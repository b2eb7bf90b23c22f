"""Configurations to start from, and a simulated plant to try Linewatch on: ``make demo``."""
