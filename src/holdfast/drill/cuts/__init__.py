"""The links between the parts of a cluster, which can be cut.

proxy     a link: slowed, broken, or made to swallow what passes
links     the process that all links of a cluster are in
"""
