"""The old xtables interface by python-iptables, in a process of its own: without lbctl and site."""

#: Seconds that another program may hold the lock of the iptables commands.
LOCK_SECONDS = 10
