"""The promises under faults and attacks: programs with a short form that pytest runs, and a long one on demand.

docs/reliability.md says how to run them and what they gave.
"""
