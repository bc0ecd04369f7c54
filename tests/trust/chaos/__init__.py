"""Accounting under chaos: numbered mails through faults of every kind, and a reckoning with what is stored.

``python -m tests.trust.chaos --help``; docs/reliability.md says what it promises and what it gave.
"""
