"""The local page: what the gateway sees, for people at the machine, and what they have to say about it.

Served beside the metrics, from what is in memory: no build step, no request to anybody else. Invariant: what the page is told
is :mod:`edge_node.web.view`, all of it: messages that also go upstream, scores, and what the configuration says; no signal.
"""
