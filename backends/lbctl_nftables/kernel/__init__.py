"""nf_tables read by netlink: what the kernel holds, byte for byte, whichever nft wrote it.

    netlink      requests, answers, attributes
    datatypes    a value's bytes ↔ its text
    objects      tables, chains, rules, sets and other objects of one table
    elements     the elements of a set or map
    expressions  a rule's expressions → its text, by running them over registers

nft itself is no reader for this: its JSON differs by version, nft 1.0.6 crashes on tables that nft 1.1.3
wrote, and nft 1.1.7 shows the keys that it meant to write, not those that the kernel compares.
"""
