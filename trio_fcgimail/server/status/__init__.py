"""The process of the status page: metrics, health, and a page to look at (docs/operating.md, "The status page").

It needs the extra ``status``, and nothing else of ours imports it. What it shows it asks of the parent, once a second.
"""
