#!/bin/sh
nft add table ip nat
nft 'add chain ip nat prerouting { type nat hook prerouting priority -100 ; }'
nft add rule nat prerouting tcp dport 80 dnat to numgen inc mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }
PORT=443
sudo nft "add rule ip nat prerouting tcp dport $PORT dnat to jhash ip saddr . tcp sport mod 2 seed 0xdeadbeef map { 0: 10.0.0.1, 1: 10.0.0.2 }"
nft add rule nat prerouting ip protocol udp dnat to numgen random mod 10 map { 0-6 : 10.0.0.1 , 7-9 : 10.0.0.2 }
nft insert rule ip nat prerouting iifname lo return
nft delete rule nat prerouting handle 4
nft list ruleset
