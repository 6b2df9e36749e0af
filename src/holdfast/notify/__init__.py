"""Mail to buyers: their order is confirmed, or their event was cancelled.

record       notes which letters are to be written, as the outbox's consumer `notify`
sender       takes what is due, and notes what became of it
letters      the texts
post         the mail server: where it is, and what its answers mean
"""
