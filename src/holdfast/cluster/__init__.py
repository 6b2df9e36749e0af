"""The scaled-out shape on one machine: every member a process on the loopback address, as `holdfast cluster` runs it.

layout.py says where everything is; member.py is one process, parts/ what each kind of member is started with;
cluster.py starts, watches and stops them in order, logins.py makes the roles by which the services log in. note.py is
what others may read of a running cluster, picture.py how it looks.
"""
