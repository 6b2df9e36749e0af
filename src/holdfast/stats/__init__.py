"""The read model of sales: per tier and minute what was held, released and sold, and for how much.

record     counts the outbox's state changes, each exactly once, and forgets old minutes
sales      what is read of it: a page of minutes, and totals
routes     GET /events/{event_id}/sales
"""
