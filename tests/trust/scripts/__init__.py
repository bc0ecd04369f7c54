"""Hostile scripts and upstreams: one that misbehaves beside one that works, under load, on real sockets.

``python -m tests.trust.scripts`` is the long form; tests/trust/test_scripts.py the short one.
"""
