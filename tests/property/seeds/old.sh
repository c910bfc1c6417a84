iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 80 -m state --state NEW -m nth --counter 1 --every 4 --packet 0 -j DNAT --to-destination 192.168.1.1:80
iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 80 -m state --state NEW -m nth --counter 1 --every 4 --packet 1 -j DNAT --to-destination 192.168.1.2:80
iptables -t nat -A PREROUTING -p tcp -d ! 192.168.0.1 --dport 80 -m random --average 50 -j DNAT --to-destination 192.168.1.3
iptables -t nat -A PREROUTING -p tcp --dport ! 80 -j BALANCE --to-destination 192.168.1.1-192.168.1.9
iptables -t nat -A POSTROUTING -s 10.0.0.0/255.0.0.0 -j SAME --to 192.0.2.1-192.0.2.2
iptables -t mangle -A PREROUTING -p tcp -m mport --dports 80,443 -j MARK --set-mark 0x1
iptables -t nat -A PREROUTING -m u32 --u32 "6&0xFF=1" -j DNAT --to 10.1.1.1 --to 10.1.1.2
