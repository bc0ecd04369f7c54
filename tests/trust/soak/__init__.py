"""Soak: a steady half of full speed for long, and whether memory, file descriptors and latency stay where they are.

``python -m tests.trust.soak --help``; docs/reliability.md says what it judges and what it gave.
"""
