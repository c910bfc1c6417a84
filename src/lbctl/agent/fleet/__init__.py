"""One intent for many hosts, by way of etcd. Each host decides alone, and goes on without etcd.

keys.py          where things stand in etcd
publication.py   an intent as it is published: who, when, which revision, signed or not
signing.py       signatures, made and verified by ssh-keygen
acceptance.py    which publication a host follows, and why it refuses one
record.py        what a host accepted last, kept on its disk
subscriber.py    follows the published intent: a part of the agent
report.py        what a host reports of itself, and what a canary makes of it; pure
reporter.py      keeps a host's report in etcd under a lease: a part of the agent
publisher.py     what `lbctl publish` and `--fleet` do
registration.py  keeps an endpoint registered while a program runs: `lbctl register`
"""
