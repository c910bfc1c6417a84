"""Kernel load balancing as a declared intent.

One small file says which port or address is balanced over which processes or hosts. lbctl compiles it
for nftables or iptables, applies it atomically, reads it back and proves the share of every endpoint.
"""

__version__ = "0.2.0.dev0"
