"""The bench: a Holdfast of its own, driven over HTTP as fast as it goes, and audited after each run.

client   the compiled client that drives it, and what its log says
house    the `holdfast up` that is measured: its processes, their CPU time and memory
crowd    who buys what: tokens, events, and the requests they send
trial    one case under way: no-op, warm-up, the measured run, the figures
ledger   what the client was told
audit    PostgreSQL and the gate held against the ledger; what does not agree makes a figure void
seed     millions of orders of the past
cases    every case, as data and a small function
run      all cases that were asked for, one after the other
figures  what is reported
plots    the same, drawn
"""
