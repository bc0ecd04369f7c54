"""Hostile clients: attackers in processes of their own, a good load beside them, and what both of them noticed.

``python -m tests.trust.hostile`` is the long form; tests/trust/test_hostile.py the short one.
"""
