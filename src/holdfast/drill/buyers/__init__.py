"""The people who buy during a drill.

stage     the events that they come for, on different masters of the gate
load      an open loop of purchases through the gateway
record    every request and answer, in memory and in a file
figures   what a record says about interruption and latency
"""
