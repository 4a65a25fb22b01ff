"""Offline tracking for any Adobe Analytics client.

Read in this order: `core/hit.py` (the nouns), `core/` (everything decided, pure),
`shell/` (everything done, one library each), `drain.py` (where both meet), `daemon.py`
(wires, starts, stops).
"""

__version__ = "0.1.0"
