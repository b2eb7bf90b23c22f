"""Microcontrollers on a serial port. Nothing here yet: the package reserves its place in the layout."""
