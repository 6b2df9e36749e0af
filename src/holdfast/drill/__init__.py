"""Drills: buyers keep coming while parts of the scaled-out shape are killed, frozen and cut off, and an audit of what
that did.

proxy     a link between two parts, which can be slowed, broken, or made to swallow what passes
links     the process that all links are in
record    every request and answer of the buyers, in memory and in a file
load      the buyers: an open loop of purchases through the gateway
stage     the events that they come for, on different masters of the gate
site      the running cluster as the drills see it
faults    the drills: what is done to which part, and what is promised meanwhile
figures   what a drill's record says about interruption and latency
audit/    PostgreSQL, the gate, Kafka and the statistics held against the record
run       one drill from beginning to end
report    the table of the drills
"""
