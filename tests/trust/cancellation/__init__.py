"""Every wait of a transaction is cancelled in turn, and afterwards nothing may be left over and nothing be promised.

A scenario is played once to count its points: each time that a task of the server gives the scheduler its turn. Then it
is played again for each of them, and there the server, the connection or the client is taken away.
``python -m tests.trust.cancellation`` does all of them, ``tests/trust/test_cancellation.py`` a part.
"""
