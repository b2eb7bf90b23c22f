"""What stores say of a message that no repetition makes them take."""


class Unstorable(Exception):
    """One of what was to be stored is refused for what it is; nothing is wrong with the store. The text says what."""
