"""Intent files with one mistake each: what is reported, on which line, and what is advised."""

from pathlib import Path
from typing import NamedTuple


class BadIntent(NamedTuple):
    """A file, and the only mistake in it: its line, and parts of the message and of the hint."""

    name: str
    text: str
    line: int
    message: str
    hint: str

    def write(self, folder: Path) -> Path:
        """Write the file into a folder; return its path."""
        path = folder / self.name
        path.write_bytes(self.text.encode())
        return path


_HEAD = """\
schema = 1

[[service]]
name = "web"
"""
_WEB = _HEAD + 'listen = "80/tcp"\n'
_FULL = _WEB + 'endpoints = ["8001", "8002"]\n'

BAD_INTENTS = (
    BadIntent(
        "affinity-too-long.toml",
        _FULL + 'affinity = "31d"\n',
        7,
        'service "web": affinity "31d" is longer than 30 days',
        "30d",
    ),
    BadIntent(
        "affinity-without-unit.toml",
        _FULL + "affinity = 90\n",
        7,
        'service "web": affinity 90 is not a duration',
        '"90s"',
    ),
    BadIntent(
        "affinity-zero.toml",
        _FULL + 'affinity = "0s"\n',
        7,
        'service "web": affinity "0s" is not a duration',
        "shortest is 1s",
    ),
    BadIntent(
        "allow-empty.toml",
        _FULL + "allow = []\n",
        7,
        'service "web": `allow` is empty',
        "leave `allow` out",
    ),
    BadIntent(
        "allow-host-bits.toml",
        _FULL + 'allow = ["198.51.100.7/24"]\n',
        7,
        'service "web": allow: "198.51.100.7/24" has bits set beyond its prefix',
        '"198.51.100.0/24"',
    ),
    BadIntent(
        "allow-host-name.toml",
        _FULL + 'allow = ["example.org"]\n',
        7,
        'service "web": allow: "example.org" is not a network',
        "not resolved",
    ),
    BadIntent(
        "allow-is-text.toml",
        _FULL + 'allow = "10.0.0.0/8"\n',
        7,
        'service "web": `allow` is "10.0.0.0/8", not a list',
        "allow = [",
    ),
    BadIntent(
        "allow-netmask.toml",
        _FULL + 'allow = ["10.0.0.0/255.0.0.0"]\n',
        7,
        'service "web": allow: "10.0.0.0/255.0.0.0": the part after the slash',
        "not a netmask",
    ),
    BadIntent(
        "duplicate-endpoint-names.toml",
        _WEB
        + """\
[[service.endpoint]]
name = "a"
address = "10.0.0.1:80"
[[service.endpoint]]
name = "a"
address = "10.0.0.2:80"
""",
        10,
        'service "web": two endpoints are named "a", the first on line 6',
        "a name of its own",
    ),
    BadIntent(
        "duplicate-listeners-in-service.toml",
        _HEAD
        + """\
listen = ["80/tcp", "80/tcp"]
endpoints = ["8001", "8002"]
""",
        5,
        'service "web": listener 80/tcp is given twice, first by this service on line 5',
        "write it once",
    ),
    BadIntent(
        "duplicate-listeners.toml",
        _FULL
        + """\

[[service]]
name = "api"
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        10,
        'service "api": listener 80/tcp is given twice, first by service "web" on line 5',
        "a listener belongs to one service",
    ),
    BadIntent(
        "duplicate-service-names.toml",
        _FULL
        + """\

[[service]]
name = "web"
listen = "81/tcp"
endpoints = ["8001", "8002"]
""",
        9,
        'service "web": the name is taken by the service on line 4',
        "a name of its own",
    ),
    BadIntent(
        "empty-file.toml",
        "",
        1,
        "the file is empty",
        "`lbctl init` prints an intent file",
    ),
    BadIntent(
        "endpoint-address-missing.toml",
        _WEB
        + """\
[[service.endpoint]]
name = "a"
""",
        6,
        'service "web": endpoint "a": `address` is missing',
        "address = ",
    ),
    BadIntent(
        "endpoint-bad-ipv4.toml",
        _WEB + 'endpoints = ["10.0.0.256:80"]\n',
        6,
        'service "web": endpoint "10.0.0.256:80" has a bad IPv4 address',
        "0 to 255",
    ),
    BadIntent(
        "endpoint-bad-ipv6.toml",
        _WEB + 'endpoints = ["[2001:db8:::1]:80"]\n',
        6,
        'service "web": endpoint "[2001:db8:::1]:80" has a bad IPv6 address',
        "[2001:db8::1]:80",
    ),
    BadIntent(
        "endpoint-bad-name.toml",
        _WEB
        + """\
[[service.endpoint]]
name = "A b"
address = "10.0.0.1:80"
""",
        7,
        'service "web": endpoint 1: the endpoint name "A b" is not a name',
        '"a-b" would do',
    ),
    BadIntent(
        "endpoint-broadcast.toml",
        _WEB + 'endpoints = ["255.255.255.255:80"]\n',
        6,
        'service "web": endpoint "255.255.255.255:80" is a broadcast address',
        "one host",
    ),
    BadIntent(
        "endpoint-host-name.toml",
        _WEB + 'endpoints = ["db.example:5432"]\n',
        6,
        'service "web": endpoint "db.example:5432": "db.example" is not an address',
        "not resolved",
    ),
    BadIntent(
        "endpoint-in-single-brackets.toml",
        _WEB
        + """\
[service.endpoint]
address = "8001"
""",
        6,
        'service "web": `endpoint` is a table, not a list',
        "[[service.endpoint]]",
    ),
    BadIntent(
        "endpoint-ipv4-mapped.toml",
        _WEB + 'endpoints = ["[::ffff:10.0.0.1]:80"]\n',
        6,
        'service "web": endpoint "[::ffff:10.0.0.1]:80" is an IPv4-mapped IPv6 address',
        '"10.0.0.1"',
    ),
    BadIntent(
        "ipv4-compatible-address.toml",
        _HEAD
        + """\
listen = "[::1.2.3.4]:80/tcp"
endpoints = ["8001"]
""",
        5,
        'service "web": listener "[::1.2.3.4]:80/tcp" has an IPv4-compatible IPv6 address',
        "1.2.3.4",
    ),
    BadIntent(
        "endpoint-is-a-float.toml",
        _WEB + "endpoints = [8001.5]\n",
        6,
        'service "web": endpoint 8001.5 is not a string',
        "8001",
    ),
    BadIntent(
        "endpoint-leading-zero.toml",
        _WEB + 'endpoints = ["08001"]\n',
        6,
        'service "web": endpoint "08001": the port has leading zeros',
        '"8001"',
    ),
    BadIntent(
        "endpoint-multicast-ipv6.toml",
        _WEB + 'endpoints = ["[ff02::1]:80"]\n',
        6,
        'service "web": endpoint "[ff02::1]:80" is a multicast address',
        "one host",
    ),
    BadIntent(
        "endpoint-octal-ipv4.toml",
        _WEB + 'endpoints = ["10.0.0.011:80"]\n',
        6,
        'service "web": endpoint "10.0.0.011:80" has a bad IPv4 address',
        '"10.0.0.11"',
    ),
    BadIntent(
        "endpoint-plus-sign.toml",
        _WEB + 'endpoints = ["+8001"]\n',
        6,
        'service "web": endpoint "+8001": the port has a plus sign',
        '"8001"',
    ),
    BadIntent(
        "endpoint-port-0.toml",
        _WEB + 'endpoints = ["8001", "0"]\n',
        6,
        'service "web": endpoint "0": port 0 is not between',
        "1 to 65535",
    ),
    BadIntent(
        "endpoint-port-70000.toml",
        _WEB + 'endpoints = ["8001", 70000]\n',
        6,
        'service "web": endpoint 70000: a port is between 1 and 65535',
        "1 to 65535",
    ),
    BadIntent(
        "endpoint-port-negative.toml",
        _WEB + 'endpoints = ["-5"]\n',
        6,
        'service "web": endpoint "-5": port -5 is not between',
        "1 to 65535",
    ),
    BadIntent(
        "endpoint-range-backwards.toml",
        _WEB + 'endpoints = ["8008-8001"]\n',
        6,
        'service "web": endpoints "8008-8001" run backwards',
        '"8001-8008"',
    ),
    BadIntent(
        "endpoint-range-beyond-65535.toml",
        _WEB + 'endpoints = ["65000-66000"]\n',
        6,
        'service "web": endpoints "65000-66000": port 66000',
        "1 to 65535",
    ),
    BadIntent(
        "endpoint-range-of-address.toml",
        _WEB + 'endpoints = ["10.0.0.1:80-90"]\n',
        6,
        'service "web": endpoint "10.0.0.1:80-90" is more than one port',
        "one entry",
    ),
    BadIntent(
        "endpoint-range-too-long.toml",
        _WEB + 'endpoints = ["1000-3000"]\n',
        6,
        'service "web": endpoints "1000-3000" are 2001 ports, more than 1024',
        '"1000-2023"',
    ),
    BadIntent(
        "endpoint-scope-id.toml",
        _WEB + 'endpoints = ["[fe80::1%eth0]:80"]\n',
        6,
        'service "web": endpoint "[fe80::1%eth0]:80" has a scope id',
        "no scope",
    ),
    BadIntent(
        "endpoint-twice-by-range.toml",
        _WEB + 'endpoints = ["8001-8003", "8002"]\n',
        6,
        'service "web": endpoint 8002 is given twice',
        "`weight`",
    ),
    BadIntent(
        "endpoint-twice.toml",
        _WEB + 'endpoints = ["8001", "8001"]\n',
        6,
        'service "web": endpoint 8001 is given twice, first on line 6',
        "`weight`",
    ),
    BadIntent(
        "endpoint-unknown-key.toml",
        _WEB
        + """\
[[service.endpoint]]
name = "a"
address = "10.0.0.1:80"
wieght = 3
""",
        9,
        'service "web": endpoint "a": unknown key `wieght`',
        "did you mean `weight`?",
    ),
    BadIntent(
        "endpoint-unspecified.toml",
        _WEB + 'endpoints = ["0.0.0.0:80"]\n',
        6,
        'service "web": endpoint "0.0.0.0:80" has the unspecified address',
        'just the port: "80"',
    ),
    BadIntent(
        "endpoint-url.toml",
        _WEB + 'endpoints = ["http://10.0.0.1:80"]\n',
        6,
        'service "web": endpoint "http://10.0.0.1:80" is a URL',
        "8001",
    ),
    BadIntent(
        "endpoint-with-protocol.toml",
        _WEB + 'endpoints = ["8001/tcp"]\n',
        6,
        'service "web": endpoint "8001/tcp" has a protocol',
        '"8001"',
    ),
    BadIntent(
        "endpoint-with-space.toml",
        _WEB + 'endpoints = [" 8001"]\n',
        6,
        'service "web": endpoint " 8001" contains blanks',
        '"8001"',
    ),
    BadIntent(
        "endpoint-in-brackets-without-port.toml",
        _WEB + 'endpoints = ["[2001:db8::1]"]\n',
        6,
        'service "web": endpoint "[2001:db8::1]" has no port',
        '"[2001:db8::1]:80", or without brackets "2001:db8::1"',
    ),
    BadIntent(
        "endpoint-unspecified-without-port.toml",
        _WEB + 'endpoints = ["::"]\n',
        6,
        'service "web": endpoint "::" has the unspecified address',
        "port of a process on this host",
    ),
    BadIntent(
        "endpoints-with-and-without-port.toml",
        _WEB + 'endpoints = ["10.0.0.1:80", "10.0.0.2"]\n',
        6,
        'service "web": endpoints of two kinds: 10.0.0.2 has no port, but 10.0.0.1:80 has one',
        "keep their destination port",
    ),
    BadIntent(
        "endpoint-inline-unknown-key.toml",
        _WEB + 'endpoints = ["10.0.0.1", { address = "10.0.0.2", wieght = 2 }]\n',
        6,
        'service "web": endpoint 2: unknown key `wieght`',
        "`weight`",
    ),
    BadIntent(
        "endpoint-inline-bad-address.toml",
        _WEB + 'endpoints = [\n  { name = "a", address = "10.0.0.256" },\n]\n',
        7,
        'service "web": endpoint "a": address "10.0.0.256" has a bad IPv4 address',
        "0 to 255",
    ),
    BadIntent(
        "endpoint-inline-weight.toml",
        _WEB + 'endpoints = [\n  "8001",\n  { address = "8002", weight = 0 },\n]\n',
        8,
        'service "web": endpoint 2: weight 0 is not a whole number',
        "drain",
    ),
    BadIntent(
        "endpoint-range-with-name.toml",
        _WEB + '[[service.endpoint]]\nname = "a"\naddress = "8001-8004"\n',
        7,
        'service "web": "a" would be the name of 4 endpoints',
        "leave the name out",
    ),
    BadIntent(
        "deny-empty.toml",
        _FULL + "deny = []\n",
        7,
        'service "web": `deny` is empty: no client is refused',
        "leave `deny` out",
    ),
    BadIntent(
        "deny-host-name.toml",
        _FULL + 'deny = ["10.0.0.0/8", "example.org"]\n',
        7,
        'service "web": deny: "example.org" is not a network or address',
        "not resolved",
    ),
    BadIntent(
        "exclude-and-its-listener.toml",
        _HEAD
        + 'listen = ["80/tcp", "192.0.2.10:443/tcp"]\nendpoints = ["8001"]\nexclude = ["192.0.2.0/24"]\n',
        5,
        'service "web": listener 192.0.2.10:443/tcp is at an address that `exclude` leaves alone',
        "a service of its own",
    ),
    BadIntent(
        "exclude-host-bits.toml",
        _FULL + 'exclude = ["192.0.2.1/24"]\n',
        7,
        'service "web": exclude: "192.0.2.1/24" has bits set beyond its prefix',
        '"192.0.2.0/24"',
    ),
    BadIntent(
        "exclude-without-effect.toml",
        _HEAD + 'listen = "192.0.2.10:80/tcp"\nendpoints = ["8001"]\nexclude = ["192.0.2.1"]\n',
        7,
        'service "web": `exclude` has no effect: each listener has an address',
        "leave it out",
    ),
    BadIntent(
        "interface-is-a-number.toml",
        _FULL + "interfaces = [2]\n",
        7,
        'service "web": interface 2 is not a string',
        '"eth0"',
    ),
    BadIntent(
        "interface-loopback.toml",
        _FULL + 'interfaces = ["lo"]\n',
        7,
        'service "web": interface "lo": connections made on this host arrive on no interface',
        "`local-clients`",
    ),
    BadIntent(
        "interface-too-long.toml",
        _FULL + 'interfaces = ["eth0", "a234567890123456"]\n',
        7,
        'service "web": interface "a234567890123456" is longer than 15 characters',
        "network interface",
    ),
    BadIntent(
        "interface-twice.toml",
        _FULL + 'interfaces = [\n  "eth0",\n  "eth0",\n]\n',
        9,
        'service "web": interface "eth0" is given twice',
        "once",
    ),
    BadIntent(
        "interface-wildcard-of-iptables.toml",
        _FULL + 'interfaces = ["eth+"]\n',
        7,
        'service "web": interface "eth+" is not the name of an interface',
        '"eth*"',
    ),
    BadIntent(
        "interface-with-quote.toml",
        _FULL + "interfaces = ['e\"; drop']\n",
        7,
        'service "web": interface "e\\"; drop" is not the name of an interface',
        "network interface",
    ),
    BadIntent(
        "interfaces-is-text.toml",
        _FULL + 'interfaces = "eth0"\n',
        7,
        'service "web": `interfaces` is "eth0", not a list',
        "interfaces = [",
    ),
    BadIntent(
        "interfaces-too-many.toml",
        _FULL + f"interfaces = {[f'eth{n}' for n in range(33)]}\n",
        7,
        'service "web": `interfaces` has more than 32 entries',
        "ppp*",
    ),
    BadIntent(
        "endpoints-empty.toml",
        _WEB + "endpoints = []\n",
        6,
        'service "web": there are no endpoints',
        'endpoints = ["8001", "8002"]',
    ),
    BadIntent(
        "endpoints-missing.toml",
        _HEAD + 'listen = "80/tcp"\n',
        3,
        'service "web": there are no endpoints',
        'endpoints = ["8001", "8002"]',
    ),
    BadIntent(
        "endpoints-not-a-list.toml",
        _WEB + 'endpoints = "8001"\n',
        6,
        'service "web": `endpoints` is "8001", not a list',
        'endpoints = ["8001", "8002"]',
    ),
    BadIntent(
        "json-key-twice.json",
        """\
{
  "schema": 1,
  "owner": "a",
  "owner": "b"
}
""",
        4,
        "not valid JSON: the key `owner` is given twice",
        "first is on line 3",
    ),
    BadIntent(
        "json-not-a-number.json",
        """\
{
  "schema": 1,
  "service": [{"name": "web", "listen": "80/tcp", "endpoints": ["8001"],
    "seed": NaN}]
}
""",
        4,
        "not valid JSON: NaN is not a number",
        "whole number",
    ),
    BadIntent(
        "json-not-an-object.json",
        "[1, 2]\n",
        1,
        "the document is a list, not an object",
        '"schema": 1',
    ),
    BadIntent(
        "json-null-instead-of-nothing.json",
        """\
{"schema": 1, "service": [
 {"name": "web", "listen": "80/tcp",
  "endpoints": ["8001"],
  "seed": null}]}
""",
        4,
        'service "web": seed null is not a whole number',
        "leave it out",
    ),
    BadIntent(
        "json-trailing-comma.json",
        """\
{
  "schema": 1,
}
""",
        2,
        "not valid JSON: no comma is allowed before the closing }",
        "double quotes",
    ),
    BadIntent(
        "json-trailing-comma-in-list.json",
        """\
{
  "schema": 1,
  "service": [
    {
      "name": "web", "listen": "80/tcp",
      "endpoints": ["8001", "8002",
      ]
    }
  ]
}
""",
        6,
        "not valid JSON: no comma is allowed before the closing ]",
        "double quotes",
    ),
    BadIntent(
        "json-weight-0.json",
        """\
{"schema": 1, "service": [
 {"name": "web", "listen": "80/tcp",
  "endpoint": [
   {"address": "8001"},
   {"address": "8002",
    "weight": 0}]}]}
""",
        6,
        'service "web": endpoint 2: weight 0 is not a whole number',
        "drain",
    ),
    BadIntent(
        "listen-empty-list.toml",
        _HEAD
        + """\
listen = []
endpoints = ["8001", "8002"]
""",
        5,
        'service "web": `listen` is empty',
        'listen = "80/tcp"',
    ),
    BadIntent(
        "listen-list-second-bad.toml",
        _HEAD
        + """\
listen = [
  "80/tcp",  # fine [
  "81",
]
endpoints = ["8001"]
""",
        7,
        'service "web": listener "81" has no protocol',
        '"81/tcp"',
    ),
    BadIntent(
        "listen-missing.toml",
        _HEAD + 'endpoints = ["8001"]\n',
        3,
        'service "web": `listen` is missing',
        'listen = "80/tcp"',
    ),
    BadIntent(
        "listener-family-without-endpoint.toml",
        _HEAD
        + """\
listen = ["192.0.2.10:443/tcp", "[2001:db8::10]:443/tcp"]
endpoints = ["10.0.0.1:443"]
""",
        5,
        'service "web": listener [2001:db8::10]:443/tcp has no endpoint: none has an IPv6 address',
        "IPv6",
    ),
    BadIntent(
        "listener-host-name.toml",
        _HEAD
        + """\
listen = "localhost:80/tcp"
endpoints = ["8001", "8002"]
""",
        5,
        'service "web": listener "localhost:80/tcp": "localhost" is not an address',
        "not resolved",
    ),
    BadIntent(
        "listener-ipv6-without-brackets.toml",
        _HEAD
        + """\
listen = "2001:db8::1:80/tcp"
endpoints = ["8001", "8002"]
""",
        5,
        'service "web": listener "2001:db8::1:80/tcp": an IPv6 address needs brackets',
        '"[2001:db8::1]:80/tcp"',
    ),
    BadIntent(
        "listener-is-a-number.toml",
        _HEAD
        + """\
listen = 80
endpoints = ["8001", "8002"]
""",
        5,
        'service "web": listener 80 is not a string',
        '"80/tcp"',
    ),
    BadIntent(
        "listener-multicast.toml",
        _HEAD
        + """\
listen = "224.0.0.1:80/tcp"
endpoints = ["8001", "8002"]
""",
        5,
        'service "web": listener "224.0.0.1:80/tcp" is a multicast address',
        "one host",
    ),
    BadIntent(
        "listener-port-0.toml",
        _HEAD
        + """\
listen = "0/tcp"
endpoints = ["8001", "8002"]
""",
        5,
        'service "web": listener "0/tcp": port 0 is not between 1 and 65535',
        "1 to 65535",
    ),
    BadIntent(
        "listener-port-70000.toml",
        _HEAD
        + """\
listen = "70000/tcp"
endpoints = ["8001", "8002"]
""",
        5,
        'service "web": listener "70000/tcp": port 70000 is not between',
        "1 to 65535",
    ),
    BadIntent(
        "listener-port-range.toml",
        _HEAD
        + """\
listen = "80-90/tcp"
endpoints = ["8001", "8002"]
""",
        6,
        'service "web": endpoint 8001 is a port of this host, but listener 80-90/tcp is a range of ports',
        '"10.0.0.11"',
    ),
    BadIntent(
        "listener-range-and-endpoint-with-port.toml",
        _HEAD + 'listen = ["53/udp", "80-90/tcp"]\nendpoints = ["10.0.0.1:80"]\n',
        6,
        'service "web": endpoint 10.0.0.1:80 has a port, but listener 80-90/tcp is a range of ports',
        '"10.0.0.11"',
    ),
    BadIntent(
        "listener-range-backwards.toml",
        _HEAD + 'listen = "192.0.2.1:90-80/tcp"\nendpoints = ["10.0.0.1"]\n',
        5,
        'service "web": listener "192.0.2.1:90-80/tcp" runs backwards',
        '"192.0.2.1:80-90/tcp"',
    ),
    BadIntent(
        "listener-range-beyond-65535.toml",
        _HEAD + 'listen = "80-70000/tcp"\nendpoints = ["10.0.0.1"]\n',
        5,
        'service "web": listener "80-70000/tcp": port 70000 is not between',
        "1 to 65535",
    ),
    BadIntent(
        "listener-range-of-one.toml",
        _HEAD + 'listen = "80-80/tcp"\nendpoints = ["10.0.0.1"]\n',
        5,
        'service "web": listener "80-80/tcp" is a range of one port',
        '"80/tcp"',
    ),
    BadIntent(
        "listener-range-without-end.toml",
        _HEAD + 'listen = "80-/tcp"\nendpoints = ["10.0.0.1"]\n',
        5,
        'service "web": listener "80-/tcp" has no port',
        "80/tcp",
    ),
    BadIntent(
        "listener-ranges-overlap.toml",
        _HEAD
        + """\
listen = ["80-90/tcp", "192.0.2.1:100-110/tcp"]
endpoints = ["10.0.0.1"]

[[service]]
name = "api"
listen = ["91-95/tcp", "85-89/tcp"]
endpoints = ["10.0.0.1"]
""",
        10,
        'service "api": listener 85-89/tcp overlaps 80-90/tcp of service "web" on line 5',
        "one service",
    ),
    BadIntent(
        "listener-ranges-overlap-by-address.toml",
        _HEAD
        + """\
listen = ["192.0.2.1:100-110/tcp", "192.0.2.2:100-110/tcp"]
endpoints = ["10.0.0.1"]

[[service]]
name = "api"
listen = ["109-120/tcp"]
endpoints = ["10.0.0.1"]
exclude = ["192.0.2.1"]
""",
        10,
        'service "api": listener 109-120/tcp overlaps 192.0.2.2:100-110/tcp of service "web" on line 5',
        'exclude = ["192.0.2.2"]',
    ),
    BadIntent(
        "listener-protocol-icmp.toml",
        _HEAD
        + """\
listen = "80/icmp"
endpoints = ["8001", "8002"]
""",
        5,
        'service "web": listener "80/icmp": the protocol "icmp" is not known',
        "t",
    ),
    BadIntent(
        "listener-protocol-upper-case.toml",
        _HEAD
        + """\
listen = "80/TCP"
endpoints = ["8001", "8002"]
""",
        5,
        'service "web": listener "80/TCP": the protocol "TCP"',
        'did you mean "80/tcp"?',
    ),
    BadIntent(
        "listener-star.toml",
        _HEAD
        + """\
listen = "*:80/tcp"
endpoints = ["8001", "8002"]
""",
        5,
        'service "web": listener "*:80/tcp": "*" is not an address',
        'just the port: "80/tcp"',
    ),
    BadIntent(
        "listener-unicode-digits.toml",
        _HEAD + ('listen = "٨٠/tcp"\nendpoints = ["8001", "8002"]\n'),
        5,
        'service "web": listener "\\u0668\\u0660/tcp" contains a character that is not ASCII',
        "digits 0-9",
    ),
    BadIntent(
        "listener-unspecified-ipv4.toml",
        _HEAD
        + """\
listen = "0.0.0.0:80/tcp"
endpoints = ["8001", "8002"]
""",
        5,
        'service "web": listener "0.0.0.0:80/tcp" has the unspecified address',
        'just the port: "80/tcp"',
    ),
    BadIntent(
        "listener-unspecified-ipv6.toml",
        _HEAD
        + """\
listen = "[::]:80/tcp"
endpoints = ["8001", "8002"]
""",
        5,
        'service "web": listener "[::]:80/tcp" has the unspecified address',
        'just the port: "80/tcp"',
    ),
    BadIntent(
        "listener-with-newline.toml",
        _HEAD + ('listen = "80/tcp\\n"\nendpoints = ["8001", "8002"]\n'),
        5,
        'service "web": listener "80/tcp\\n" contains blanks',
        'write "80/tcp"',
    ),
    BadIntent(
        "listener-without-protocol.toml",
        _HEAD
        + """\
listen = "80"
endpoints = ["8001", "8002"]
""",
        5,
        'service "web": listener "80" has no protocol',
        '"80/tcp"',
    ),
    BadIntent(
        "local-clients-is-text.toml",
        _FULL + 'local-clients = "yes"\n',
        7,
        'service "web": `local-clients` is "yes", not true or false',
        "without quotes",
    ),
    BadIntent(
        "mixed-endpoint-kinds.toml",
        _WEB + 'endpoints = ["8001", "10.0.0.1:80"]\n',
        6,
        'service "web": endpoints of two kinds: 10.0.0.1:80 is an address, but 8001 is a port',
        "only ports or only addresses",
    ),
    BadIntent(
        "name-empty.toml",
        """\
schema = 1

[[service]]
name = ""
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        4,
        'service 1: the service name "" is not a name',
        "1 to 63",
    ),
    BadIntent(
        "name-ends-with-hyphen.toml",
        """\
schema = 1

[[service]]
name = "web-"
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        4,
        'service 1: the service name "web-" is not a name',
        '"web" would do',
    ),
    BadIntent(
        "name-is-a-number.toml",
        """\
schema = 1

[[service]]
name = 7
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        4,
        "service 1: the service name 7 is not a name",
        "1 to 63",
    ),
    BadIntent(
        "name-missing.toml",
        """\
schema = 1

[[service]]
listen = "80/tcp"
endpoints = ["8001"]
""",
        3,
        "service 1: `name` is missing",
        'name = "web"',
    ),
    BadIntent(
        "name-too-long.toml",
        """\
schema = 1

[[service]]
name = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        4,
        'service 1: the service name "aaaaaaaaaaaaaaaaaaaa',
        "1 to 63",
    ),
    BadIntent(
        "name-upper-case.toml",
        """\
schema = 1

[[service]]
name = "Web"
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        4,
        'service 1: the service name "Web" is not a name',
        '"web" would do',
    ),
    BadIntent(
        "name-with-drop.toml",
        """\
schema = 1

[[service]]
name = "web; drop"
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        4,
        'service 1: the service name "web; drop" is not a name',
        "1 to 63 of a-z, 0-9",
    ),
    BadIntent(
        "name-with-newline.toml",
        ('schema = 1\n\n[[service]]\nname = "web\\n"\nlisten = "80/tcp"\nendpoints = ["8001", "8002"]\n'),
        4,
        'service 1: the service name "web\\n" is not a name',
        '"web" would do',
    ),
    BadIntent(
        "name-with-quotes.toml",
        """\
schema = 1

[[service]]
name = 'we"b'
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        4,
        'service 1: the service name "we\\"b" is not a name',
        '"we-b" would do',
    ),
    BadIntent(
        "name-with-space.toml",
        """\
schema = 1

[[service]]
name = "my web"
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        4,
        'service 1: the service name "my web" is not a name',
        '"my-web" would do',
    ),
    BadIntent(
        "name-with-terminal-escape.toml",
        (
            "schema = 1\n"
            "\n"
            "[[service]]\n"
            'name = "\\u001b[2Jweb"\n'
            'listen = "80/tcp"\n'
            'endpoints = ["8001", "8002"]\n'
        ),
        4,
        'service 1: the service name "\\x1b[2Jweb" is not a name',
        "1 to 63",
    ),
    BadIntent(
        "not-toml.toml",
        """\
schema = 1

frontend web
  bind *:80
""",
        3,
        "not valid TOML: Expected '=' after a key",
        "key = value",
    ),
    BadIntent(
        "overlapping-listeners-wide-last.toml",
        _HEAD
        + """\
listen = "192.0.2.10:80/tcp"
endpoints = ["8001", "8002"]

[[service]]
name = "api"
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        10,
        'service "api": listener 80/tcp overlaps 192.0.2.10:80/tcp of service "web" on line 5',
        "every address of this host",
    ),
    BadIntent(
        "overlapping-listeners.toml",
        _FULL
        + """\

[[service]]
name = "api"
listen = "192.0.2.10:80/tcp"
endpoints = ["8001", "8002"]
""",
        10,
        'service "api": listener 192.0.2.10:80/tcp overlaps 80/tcp of service "web" on line 5',
        "every address of this host",
    ),
    BadIntent(
        "mark-33-bits.toml",
        """\
schema = 1
mark = 0x1_0000_0001
""",
        2,
        "mark 0x100000001 is not two bits of 32",
        "`mark = 0x3000`",
    ),
    BadIntent(
        "mark-below-service.toml",
        _FULL + "mark = 0x3000\n",
        7,
        'service "web": unknown key `mark`',
        "above the first [[service]]",
    ),
    BadIntent(
        "mark-is-text.toml",
        """\
schema = 1
mark = "0x3000"
""",
        2,
        'mark "0x3000" is not two bits of 32',
        "`mark = 0x3000`",
    ),
    BadIntent(
        "mark-is-true.toml",
        """\
schema = 1
mark = true
""",
        2,
        "mark true is not two bits of 32",
        "`mark = 0x3000`",
    ),
    BadIntent(
        "mark-negative.toml",
        """\
schema = 1
mark = -3
""",
        2,
        "mark -3 is not two bits of 32",
        "`mark = 0x3000`",
    ),
    BadIntent(
        "mark-one-bit.toml",
        """\
schema = 1
mark = 0x1000
""",
        2,
        "mark 0x1000 is not two bits of 32",
        "nothing else on this host uses",
    ),
    BadIntent(
        "mark-three-bits.toml",
        """\
schema = 1
mark = 7
""",
        2,
        "mark 0x7 is not two bits of 32",
        "nothing else on this host uses",
    ),
    BadIntent(
        "owner-below-service.toml",
        _FULL + 'owner = "edge"\n',
        7,
        'service "web": unknown key `owner`',
        "above the first [[service]]",
    ),
    BadIntent(
        "owner-too-long.toml",
        """\
schema = 1
owner = "a-very-long-owner"
""",
        2,
        'owner "a-very-long-owner" is not a name of at most 12',
        "a-z",
    ),
    BadIntent(
        "owner-upper-case.toml",
        """\
schema = 1
owner = "LBCTL"
""",
        2,
        'owner "LBCTL" is not a name',
        "a-z",
    ),
    BadIntent(
        "scheduler-unknown.toml",
        _FULL + 'scheduler = "roundrobin"\n',
        7,
        'service "web": scheduler "roundrobin" is not known',
        'did you mean "round-robin"?',
    ),
    BadIntent(
        "schema-from-the-future.toml",
        """\
schema = 2

[[service]]
name = "web"
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        1,
        "schema 2 is not known",
        "this lbctl reads schema 1",
    ),
    BadIntent(
        "schema-is-true.toml",
        """\
schema = true

[[service]]
name = "web"
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        1,
        "schema true is not known",
        "schema = 1",
    ),
    BadIntent(
        "schema-missing.toml",
        """\
[[service]]
name = "web"
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        1,
        "`schema` is missing",
        "schema = 1",
    ),
    BadIntent(
        "seed-33-bits.toml",
        _FULL + "seed = 0x1_0000_0000\n",
        7,
        'service "web": seed 4294967296 is not a whole number',
        "leave it out",
    ),
    BadIntent(
        "seed-negative.toml",
        _FULL + "seed = -1\n",
        7,
        'service "web": seed -1 is not a whole number from 0 to 4294967295',
        "leave it out",
    ),
    BadIntent(
        "service-in-single-brackets.toml",
        """\
schema = 1

[service]
name = "web"
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        3,
        "`service` is a table, not a list",
        "[[service]]",
    ),
    BadIntent(
        "service-key-below-endpoint.toml",
        _WEB
        + """\
[[service.endpoint]]
address = "8001"
scheduler = "random"
""",
        8,
        'service "web": endpoint 1: unknown key `scheduler`',
        "above the first [[service.endpoint]]",
    ),
    BadIntent(
        "services-instead-of-service.toml",
        """\
schema = 1

[[services]]
name = "web"
listen = "80/tcp"
endpoints = ["8001", "8002"]
""",
        3,
        "unknown key `services`",
        "did you mean `service`?",
    ),
    BadIntent(
        "takeover-of-turns.toml",
        _WEB + 'endpoints = ["10.0.0.11:80"]\nscheduler = "random"\ntakeover = true\n',
        7,
        'service "web": `takeover`: only a hash of the client leads to the same endpoint on two hosts',
        '`scheduler = "source-hash"`',
    ),
    BadIntent(
        "takeover-by-default-scheduler.toml",
        _WEB + 'endpoints = ["10.0.0.11:80"]\ntakeover = true\n',
        7,
        'service "web": `takeover`: only a hash of the client leads to the same endpoint on two hosts',
        '`scheduler = "source-hash"`',
    ),
    BadIntent(
        "takeover-of-own-processes.toml",
        _FULL + 'scheduler = "maglev"\ntakeover = true\n',
        6,
        'service "web": `takeover`: processes of this host end with it',
        "endpoints on other hosts",
    ),
    BadIntent(
        "takeover-behind-our-address.toml",
        _WEB + 'endpoints = ["10.0.0.11:80"]\nscheduler = "maglev"\nsource-nat = "always"\ntakeover = true\n',
        8,
        'service "web": `takeover`: with `source-nat = "always"` endpoints reply to the host that',
        '"hairpin"',
    ),
    BadIntent(
        "takeover-of-sctp.toml",
        _HEAD + 'listen = "80/sctp"\nendpoints = ["10.0.0.11:80"]\nscheduler = "maglev"\ntakeover = true\n',
        5,
        'service "web": `takeover`: the kernel tracks an SCTP association only from its handshake on',
        "in a service of its own",
    ),
    BadIntent(
        "source-nat-unknown.toml",
        _FULL + 'source-nat = "masquerade"\n',
        7,
        'service "web": source-nat "masquerade" is not known',
        '"always"',
    ),
    BadIntent(
        "state-unknown.toml",
        _WEB
        + """\
[[service.endpoint]]
name = "a"
address = "10.0.0.1:80"
state = "drained"
""",
        9,
        'service "web": endpoint "a": state "drained" is not known',
        'did you mean "drain"?',
    ),
    BadIntent(
        "toml-key-twice.toml",
        """\
schema = 1
owner = "a"
owner = "b"
""",
        3,
        "not valid TOML: Cannot overwrite a value",
        "only once",
    ),
    BadIntent(
        "toml-text-without-quotes.toml",
        """\
schema = 1

[[service]]
name = web
""",
        4,
        "not valid TOML: Invalid value",
        "double quotes",
    ),
    BadIntent(
        "toml-unclosed-list.toml",
        """\
schema = 1

[[service]]
endpoints = ["8001",
""",
        4,
        "not valid TOML: Invalid value",
        "double quotes",
    ),
    BadIntent(
        "unknown-key-far-from-any.toml",
        _FULL + "zzz = 1\n",
        7,
        'service "web": unknown key `zzz`',
        "known here: `name`, `listen`",
    ),
    BadIntent(
        "unknown-key-underscore.toml",
        _FULL + "local_clients = true\n",
        7,
        'service "web": unknown key `local_clients`',
        "did you mean `local-clients`?",
    ),
    BadIntent(
        "unknown-key-with-escape.toml",
        _FULL + '"\\u001b[31m" = 1\n',
        7,
        'service "web": unknown key `\\x1b[31m`',
        "known here",
    ),
    BadIntent(
        "unknown-key.toml",
        _FULL + 'schedular = "random"\n',
        7,
        'service "web": unknown key `schedular`',
        "did you mean `scheduler`?",
    ),
    BadIntent(
        "unknown-top-level-key.toml",
        """\
schema = 1
ownr = "lbctl"
""",
        2,
        "unknown key `ownr`",
        "did you mean `owner`?",
    ),
    BadIntent(
        "weight-0.toml",
        _WEB
        + """\
[[service.endpoint]]
name = "a"
address = "10.0.0.1:80"
weight = 0
""",
        9,
        'service "web": endpoint "a": weight 0 is not a whole number from 1 to 4096',
        "drain",
    ),
    BadIntent(
        "weight-fraction.toml",
        _WEB
        + """\
[[service.endpoint]]
name = "a"
address = "10.0.0.1:80"
weight = 1.5
""",
        9,
        'service "web": endpoint "a": weight 1.5 is not a whole number from 1 to 4096',
        "relative",
    ),
    BadIntent(
        "weight-huge.toml",
        _WEB
        + """\
[[service.endpoint]]
name = "a"
address = "10.0.0.1:80"
weight = 1_000_000_000
""",
        9,
        'service "web": endpoint "a": weight 1000000000 is not a whole number from 1 to 4096',
        "relative",
    ),
    BadIntent(
        "weight-in-service.toml",
        _FULL + "weight = 2\n",
        7,
        'service "web": unknown key `weight`',
        "belongs to a [[service.endpoint]]",
    ),
    BadIntent(
        "weight-negative.toml",
        _WEB
        + """\
[[service.endpoint]]
name = "a"
address = "10.0.0.1:80"
weight = -1
""",
        9,
        'service "web": endpoint "a": weight -1 is not a whole number from 1 to 4096',
        "relative",
    ),
    BadIntent(
        "weight-text.toml",
        _WEB
        + """\
[[service.endpoint]]
name = "a"
address = "10.0.0.1:80"
weight = "3"
""",
        9,
        'service "web": endpoint "a": weight "3" is not a whole number from 1 to 4096',
        "relative",
    ),
    BadIntent(
        "weight-true.toml",
        _WEB
        + """\
[[service.endpoint]]
name = "a"
address = "10.0.0.1:80"
weight = true
""",
        9,
        'service "web": endpoint "a": weight true is not a whole number from 1 to 4096',
        "relative",
    ),
    BadIntent(
        "weights-need-too-many-slots.toml",
        _WEB
        + """\
[[service.endpoint]]
name = "a"
address = "10.0.0.1:80"
weight = 4095
[[service.endpoint]]
address = "10.0.0.2:80"
weight = 4096
""",
        12,
        'service "web": exact shares of these weights need 8191 slots, more than 4096',
        "common divisor",
    ),
    *(
        BadIntent(
            f"scheduler-of-others-{word}.toml",
            _FULL + f'scheduler = "{word}"\n',
            7,
            f'service "web": scheduler "{word}" is not known',
            answer,
        )
        for word, answer in {
            "rr": 'did you mean "round-robin"',
            "WRR": 'did you mean "round-robin"',
            "sh": 'did you mean "source-hash"',
            "ip_hash": 'did you mean "source-hash"',
            "mh": 'did you mean "maglev"',
            "leastconn": 'did you mean "least-connections"',
            "least_conn": 'did you mean "least-connections"',
        }.items()
    ),
    BadIntent(
        "weights-as-a-list.toml",
        _FULL + "weights = [2, 1]\n",
        7,
        'service "web": unknown key `weights`',
        "[[service.endpoint]]",
    ),
    BadIntent(
        "health-check.toml",
        _FULL + 'health_check = "tcp"\n',
        7,
        'service "web": unknown key `health_check`',
        "did you mean `check`?",
    ),
    BadIntent(
        "iptables-save.toml",
        "# Generated\n*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n",
        1,
        "this file holds iptables-save, not an intent",
        "lbctl import",
    ),
    BadIntent(
        "iptables-commands.toml",
        "iptables -t nat -A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8001\n",
        1,
        "this file holds commands of iptables, not an intent",
        "lbctl import",
    ),
    BadIntent(
        "nft.toml", "table ip nat {\n}\n", 1, "this file holds rules of nft, not an intent", "lbctl import"
    ),
    BadIntent("nft-json.toml", '{"nftables": []}\n', 1, "rules of nft as JSON", "lbctl import"),
    BadIntent(
        "ipvsadm-save.toml",
        "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w 1\n",
        1,
        "this file holds output of ipvsadm-save",
        "rr and wrr are round-robin",
    ),
)
