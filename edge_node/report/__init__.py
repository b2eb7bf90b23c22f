"""What a replay saw, as one page: a file of its own that needs nothing from elsewhere, no script and no network.

``follow`` collects it as the replay goes, in memory that does not grow with the log; ``axes``, ``charts``, ``lanes`` and
``page`` turn it into markup (all pure); ``write`` makes the file.
"""
