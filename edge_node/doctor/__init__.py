"""``edge-node doctor``: is this computer fit to be a gateway, and will this configuration run on it?

Every check is a function that yields :class:`~edge_node.doctor.findings.Finding`; what it reads of the computer it reads
through a :class:`~edge_node.doctor.host.Host`, so that a test lays out a computer as it likes.
"""
