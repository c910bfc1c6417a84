"""The iptables backend of lbctl; `backend` is its door."""
