"""The nftables backend of lbctl; `backend` is its door."""
