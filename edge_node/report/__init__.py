"""What a replay saw, as one page: a file of its own that needs nothing from elsewhere, no script and no network.

``follow`` collects it as the replay goes, in memory that does not grow with the log; ``axes``, ``charts``, ``lanes``, ``tables``,
``failures_section`` and ``page`` turn it into markup; ``write`` alone touches a file.
"""
