"""The auditor of the drills: it talks SQL, RESP and Kafka by itself, counts orders and tickets, and believes no
counter.

database    orders, payments, tickets, counters, outbox and statistics in PostgreSQL
gate        what the gate holds, asked of whichever server has it
topics      what stands on the Kafka topics
judge       all of it held against the buyers' record: the verdict
settle      looks until everything has come to rest, or its time is over
"""
