"""What is asked of every host at the beginning of a session, since every command needs it."""

#: What every command is going to ask for.
TOOLS = (
    "nft",
    "perl",
    "dot",
    "conntrack",
    "ip",
    *(
        f"{word}{flavour}{part}"
        for word in ("iptables", "ip6tables")
        for flavour in ("", "-nft", "-legacy")
        for part in ("", "-save", "-restore")
    ),
)
_VERSIONED_PARTS = ("", "-restore", "-nft-restore", "-legacy-restore", "-nft-save", "-legacy-save")
FILES = (
    "/proc/self/status",
    "/proc/sys/kernel/osrelease",
    "/proc/modules",
    "/proc/self/net/if_inet6",
    "/proc/self/net/route",
    "/proc/self/net/ip_tables_names",
    "/proc/self/net/ip6_tables_names",
)
#: Those whose version decides how they are used.
VERSIONED = frozenset(
    {"nft", *(f"{word}{part}" for word in ("iptables", "ip6tables") for part in _VERSIONED_PARTS)}
)
