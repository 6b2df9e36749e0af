"""Drills: buyers keep coming while parts of the scaled-out shape are killed, frozen and cut off, and an audit of what
that did.

drills    the drills by name, and what is promised in each
faults    what is done to which part
site      the running cluster as the drills see it
run       one drill from beginning to end
rounds    the drills one after another
report    the table of the drills
buyers/   who comes, for what, and what they were told
cuts/     the links that are cut
audit/    PostgreSQL, the gate, Kafka and the statistics held against the record
"""
