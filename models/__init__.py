"""What both ends need: the signal, its features, its models and the messages about it."""
