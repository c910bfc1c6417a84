#!/bin/bash
# balance three web servers
IPT="/sbin/iptables"
VIP=192.0.2.10
set -e
echo 1 > /proc/sys/net/ipv4/ip_forward
$IPT -t nat -F; $IPT -t nat -X
$IPT -t nat -N LB
sudo iptables -t nat -A PREROUTING -d $VIP -p tcp --dport http \
    -m state --state NEW -m statistic --mode nth --every 3 --packet 0 \
    -j DNAT --to-destination 10.0.0.1:80
iptables -t nat -A PREROUTING -d "$VIP" -p tcp --dport 80 -m statistic --mode nth --every 3 --packet 1 -j DNAT --to 10.0.0.2:80
iptables -tnat -A PREROUTING -d ${VIP} -p tcp --dport=80 -m statistic --mode nth --every 3 --packet 2 -j DNAT --to-destination 10.0.0.3:80
for i in 1 2 3; do
  iptables -t nat -A LB -p tcp -m statistic --mode random --probability 0.33 -j DNAT --to 10.0.0.$i
done
if [ -n "$IPV6" ]; then ip6tables -t nat -A PREROUTING -d 2001:db8::1 -p tcp --dport 443 -j DNAT --to [2001:db8::2]:443; fi
iptables -I INPUT 1 -s ! 10.0.0.0/8 -j DROP && iptables -D INPUT 1 || true
iptables -P FORWARD DROP
iptables-restore <<EOF
*nat
-A PREROUTING -p udp --dport 53 -j REDIRECT --to-ports 5301-5304 --random
COMMIT
EOF
