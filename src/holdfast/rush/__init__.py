"""A rush on an event of its own, over HTTP, and an audit of what it left behind.

stage        the buyers' accounts and tokens, and the event they come for
http_client  the connections that all buyers share
buyer        what one buyer does, from a seed
ledger       what the servers told the buyers: the acknowledgements and the numbers
audit        PostgreSQL and the gate held against the ledger, after everything has come to rest
run          one rush from beginning to end
"""
