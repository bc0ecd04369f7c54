"""State walks: a server, a client and faults, step by step in any order, and beside them a model of SMTP.

The model knows what every step is owed and what the scripts must see; server and model never disagree.
"""
