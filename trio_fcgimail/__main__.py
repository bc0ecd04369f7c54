"""``python -m trio_fcgimail``."""

from trio_fcgimail.cli import main

main()
