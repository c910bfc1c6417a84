"""Files in which people keep rules: each form, what it runs, and what it does not."""

import pytest

from lbctl.engine.migrate.read import read_rules
from lbctl.engine.migrate.rule_files import extract
from lbctl.model import Analysis
from lbctl.spi import backends

FIRST = "-p tcp --dport 80 -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.0.0.1:80"
SECOND = "-p tcp --dport 80 -j DNAT --to-destination 10.0.0.2:80"
IPTABLES = "/usr/sbin/iptables -t nat -A PREROUTING"

UNIT = f"""# rules at boot
[Unit]
Description=iptables for the web

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={IPTABLES} {FIRST}
ExecStart={IPTABLES} {SECOND}
ExecStop=/usr/sbin/iptables -t nat -F PREROUTING
[Install]
WantedBy=multi-user.target
"""
FORMS = {
    "unit": UNIT,
    "unit-with-prefixes": UNIT.replace("ExecStart=/usr", "ExecStart=-+/usr"),
    "unit-argv0": UNIT.replace(
        f"ExecStart={IPTABLES}", f"ExecStart=@{IPTABLES.replace(' ', ' iptables ', 1)}"
    ),
    "unit-shell": f"""[Unit]
[Service]
ExecStart=/bin/sh -c "iptables -t nat -A PREROUTING {FIRST}; iptables -t nat -A PREROUTING {SECOND}"
""",
    "unit-many-in-one": f"[Service]\nExecStart={IPTABLES} {FIRST} ; {IPTABLES} {SECOND}\n",
    "unit-continued": UNIT.replace(" --dport", " \\\n    --dport"),
    "unit-environment": UNIT.replace("Type=", 'Environment="PORT=80" OTHER=1\nType=').replace(
        "--dport 80", "--dport ${PORT}"
    ),
    "unit-pre": UNIT.replace("ExecStart=", "ExecStartPre=", 1),
    "unit-reset": UNIT.replace(
        "Type=", f"ExecStart={IPTABLES} -p tcp --dport 81 -j REDIRECT\nExecStart=\nType="
    ),
    "wg-quick": f"""[Interface]
PrivateKey = x
ListenPort = 51820
PostUp = iptables -t nat -A PREROUTING {FIRST}; iptables -t nat -A PREROUTING {SECOND}
PostDown = iptables -t nat -F PREROUTING
[Peer]
PublicKey = y
""",
    "wg-quick-lower": f"""[Interface]
postup=iptables -t nat -A PREROUTING {FIRST} # the first
PreUp = {IPTABLES} {SECOND}
ListenPort = 1
""".replace("PreUp", "postUp"),
    "interfaces": f"""# The loopback network interface
auto lo eth0
iface lo inet loopback
iface eth0 inet static
    address 203.0.113.10/24
    post-up iptables -t nat -A PREROUTING {FIRST}
    up {IPTABLES} \\
        {SECOND}
    pre-down iptables -t nat -F PREROUTING
""",
    "firewalld": f"""<?xml version="1.0" encoding="utf-8"?>
<direct>
  <rule priority="1" table="nat" ipv="ipv4" chain="PREROUTING">{SECOND}</rule>
  <rule priority="0" table="nat" ipv="ipv4" chain="PREROUTING">{FIRST}</rule>
</direct>
""",
    "firewalld-passthrough": f"""<direct>
<passthrough ipv="ipv4">-t nat -A PREROUTING {FIRST}</passthrough>
<passthrough ipv="ipv4">-t nat -A PREROUTING
    {SECOND}</passthrough>
</direct>
""",
    "firewalld-chain": f"""<direct>
<chain ipv="ipv4" table="nat" chain="WEB"/>
<rule ipv="ipv4" table="nat" chain="PREROUTING" priority="0">-p tcp -j WEB</rule>
<rule ipv="ipv4" table="nat" chain="WEB" priority="0">{FIRST}</rule>
<rule ipv="ipv4" table="nat" chain="WEB" priority="0">{SECOND}</rule>
</direct>
""",
    "firewall-cmd": f"""#!/bin/sh
firewall-cmd --permanent --direct --add-rule ipv4 nat PREROUTING 1 {SECOND}
firewall-cmd --permanent --direct --add-rule ipv4 nat PREROUTING 0 {FIRST}
sudo firewall-cmd --direct --add-rule ipv4 nat PREROUTING 0 {FIRST}
firewall-cmd --reload
""",
    "firewall-cmd-passthrough": f"""firewall-cmd --direct --passthrough ipv4 -t nat -A PREROUTING {FIRST}
firewall-cmd --direct --passthrough ipv4 -t nat -A PREROUTING {SECOND}
""",
    "ufw": f"""#
# rules.before
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING {FIRST}
-A PREROUTING {SECOND}
COMMIT
# Don't delete these required lines, otherwise there will be errors
*filter
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j ufw-logging-deny
-A ufw-before-input -j ufw-not-local
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j ufw-logging-deny
COMMIT
""",
    "openwrt": """# my own
chain user_pre {
	type nat hook prerouting priority -110; policy accept;
	ip version 4 tcp dport 80 dnat ip to numgen inc mod 2 map { 0 : 10.0.0.1 . 80, 1 : 10.0.0.2 . 80 }
}
""".replace("ip version 4 ", "meta nfproto ipv4 "),
}


def read(text: str) -> Analysis:
    return read_rules(text.encode(), backends())


@pytest.mark.parametrize("form", FORMS)
def test_rules_are_read_where_they_are_kept(form: str) -> None:
    reading = read(FORMS[form])
    assert reading.accept, reading.findings
    assert reading.unsupported == ()
    [service] = [each for each in reading.services if each.family == "ipv4"]
    assert (service.proto, service.dport, service.mode, service.leak) == ("tcp", "80", "nth", 0)
    assert service.slots == ("10.0.0.1:80", "10.0.0.2:80")
    lines = FORMS[form].split("\n")
    assert all(lines[line - 1].strip() for line in service.lines)


def test_what_is_run_at_the_end_is_said() -> None:
    for form, word in (("unit", "ExecStop"), ("wg-quick", "PostDown"), ("interfaces", "pre-down")):
        [found] = [each for each in read(FORMS[form]).findings if each.rule.startswith(word)]
        lines = FORMS[form].split("\n")
        assert (found.code, found.severity) == ("shell-construct", "info")
        assert lines[found.line - 1].strip() == found.rule
        assert "not among the loaded rules" in found.message


def test_variables_that_a_unit_does_not_set_are_named() -> None:
    reading = read(UNIT.replace("--dport 80", "--dport $PORT"))
    assert {(each.code, each.line) for each in reading.findings if each.severity == "error"} == {
        ("unexpanded-variable", 8),
        ("unexpanded-variable", 9),
    }
    # What systemd does not replace is no variable.
    assert read(UNIT.replace("-p tcp", "-p tcp -m comment --comment $$PORT")).accept


def test_the_interface_is_the_stanzas() -> None:
    text = FORMS["interfaces"].replace("-p tcp", "-i $IFACE -p tcp")
    [service] = read(text).services
    assert service.when == {"iif": "eth0"}


REFUSED = {
    "list": (
        "Chain PREROUTING (policy ACCEPT)\ntarget prot opt source destination\nDNAT tcp -- any any\n",
        "iptables-save",
    ),
    "ipvsadm": ("-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.1.1:80 -m -w 1\n", "lbctl init"),
    "ipvsadm-list": ("IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port\n", "lbctl init"),
    "firewalld-zone": (
        '<?xml version="1.0"?>\n<zone>\n  <forward-port port="80" to-port="8080"/>\n</zone>\n',
        "--from nftables",
    ),
    "openwrt-settings": ("config redirect\n\toption src wan\n\toption dest_ip 10.0.0.1\n", "fw4 print"),
    "unit-without-rules": ("[Unit]\n[Service]\nExecStart=/usr/bin/true\n", "looks like a rule"),
    "empty-unit": (
        "[Unit]\nDescription=x\n[Service]\nExecStop=/sbin/iptables -F\n",
        "no line of it loads rules",
    ),
    "no-xml": ("<direct>\n<rule>\n", "firewalld's direct rules"),
    "xml-bomb": (
        '<?xml version="1.0"?>\n<!DOCTYPE d [<!ENTITY a "b">]>\n<direct>&a;</direct>\n',
        "document type",
    ),
    "rules-alone": ("tcp dport 80 redirect to :8080\n", "--from STORE"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_refused_names_what_to_do(form: str) -> None:
    text, hint = REFUSED[form]
    reading = read(text)
    assert (reading.accept, reading.services) == (False, ())
    assert hint in " ".join(each.message for each in reading.findings)


def test_what_firewalld_keeps_for_others_is_listed() -> None:
    text = FORMS["firewalld"].replace(
        "</direct>", '<rule ipv="eb" table="nat" chain="X">-j ACCEPT</rule></direct>'
    )
    assert [each.line for each in read(text).unsupported] == [5]
    script = FORMS["firewall-cmd"] + "firewall-cmd --add-forward-port=port=80:proto=tcp:toport=8080\n"
    [lost] = read(script).unsupported
    assert (lost.line, lost.what) == (6, "firewall-cmd")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*nat\nCOMMIT\n",
        "iptables -t nat -A PREROUTING -j RETURN\n",
        "table ip t {\n}\n",
        "auto x\n",
        "[x]\n",
    ],
)
def test_other_texts_are_no_form_of_these(text: str) -> None:
    assert extract(text) is None


def test_lines_stay_where_they_are() -> None:
    for text in FORMS.values():
        found = extract(text)
        if found is not None:
            assert found.text.count("\n") == text.count("\n")
