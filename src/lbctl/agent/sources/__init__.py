"""Where endpoints come from besides the intent file: one module for each source, behind one protocol.

source.py       the protocol of a source, and finding one by its name; third parties use the same entry points
keeper.py       which answer counts: the last good one, within the bounds of the intent; pure
finder.py       asks the sources of an intent, again and again, and gives the keeper what they answer

wire.py         HTTP for the sources that speak it; the protocol is h11's
strict.py       JSON from outside
text.py         texts from outside -> endpoints
files.py        files of sources: regular ones, bounded
credentials.py  certificates, passwords and tokens
cluster.py      how the API of Kubernetes is reached

file.py         a JSON file in the form of Prometheus file_sd
dns.py          SRV, A and AAAA records
etcd.py         one key for each endpoint below a prefix
systemd.py      units of a template: the instance is a port of this host
docker.py       running containers with a label
consul.py       instances of a service
kubernetes.py   EndpointSlices of a service
"""

from lbctl.agent.sources.finder import Finder
from lbctl.agent.sources.keeper import AnswerKeeper
from lbctl.agent.sources.source import Access, Answer, Source, SourceFailed, find
from lbctl.agent.sources.text import endpoint

__all__ = ["Access", "Answer", "AnswerKeeper", "Finder", "Source", "SourceFailed", "endpoint", "find"]
