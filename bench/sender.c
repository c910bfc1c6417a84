/* Sends packets, each of a flow of its own, and prints what each batch cost.
 *
 *     sender LINK MAC COUNTERS ARRIVAL DESTINATION DESTINATIONS FLOWS BATCH LIMIT [tcp|udp]
 *
 * LINK          the interface to send through
 * MAC           the address of the router's side of it
 * COUNTERS      a descriptor of the endpoints' /proc/net/dev
 * ARRIVAL       the interface there that the packets reach
 * DESTINATION   the first address to send to, port 80
 * DESTINATIONS  how many addresses from there on are used, in a scattered order
 * FLOWS, BATCH  how many packets at most, and in one batch
 * LIMIT         milliseconds after which no new batch begins
 *
 * Packets of TCP are those of established connections: they have ACK alone, and nothing checks their sums.
 *
 * Prints one line a batch: packets, nanoseconds. A batch ends when the other side has counted all of its
 * packets, so nothing of it is left in a queue. Exits with 1 where packets do not arrive.
 *
 * A packet socket hands frames straight to the interface. Most of what is timed is therefore the router, which a
 * veth pair runs on the sender's processor and within the sender's call.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <inttypes.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FIRST_SOURCE 0x0a090002u /* 10.9.0.2 */
#define PORTS 32768u
#define PATIENCE INT64_C(2000000000)

struct packet {
    struct iphdr ip;
    union {
        struct {
            struct udphdr udp;
            char payload[8];
        };
        struct tcphdr tcp;
    };
};

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* The packets that an interface has received: the second number of its line. */
static uint64_t received(int counters, const char *arrival) {
    char text[4096];
    ssize_t length = pread(counters, text, sizeof text - 1, 0);
    if (length <= 0)
        err(2, "counters");
    text[length] = 0;
    char *line = strstr(text, arrival);
    uint64_t packets;
    if (line == NULL || sscanf(line + strlen(arrival), ": %*u %" SCNu64, &packets) != 1)
        errx(2, "no counters of %s", arrival);
    return packets;
}

static uint16_t checksum(const struct iphdr *ip) {
    uint16_t words[sizeof *ip / 2];
    uint32_t sum = 0;
    memcpy(words, ip, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        sum += words[i];
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~(sum + (sum >> 16));
}

int main(int argc, char **argv) {
    if (argc != 10 && argc != 11)
        errx(2, "nine or ten arguments");
    int tcp = argc == 11 && strcmp(argv[10], "tcp") == 0;
    const char *arrival = argv[4];
    int counters = atoi(argv[3]);
    uint32_t destination = ntohl(inet_addr(argv[5]));
    uint32_t destinations = (uint32_t)atol(argv[6]), flows = (uint32_t)atol(argv[7]), batch = (uint32_t)atol(argv[8]);
    int64_t limit = atol(argv[9]) * INT64_C(1000000);

    struct sockaddr_ll to = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons(ETH_P_IP),
        .sll_ifindex = (int)if_nametoindex(argv[1]),
        .sll_halen = ETH_ALEN,
    };
    unsigned char *mac = to.sll_addr;
    if (sscanf(argv[2], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) != 6)
        errx(2, "no MAC: %s", argv[2]);
    int out = socket(AF_PACKET, SOCK_DGRAM, 0); /* protocol 0: it receives nothing */
    if (out < 0)
        err(2, "socket");

    /* On another processor the router would work beside the sender, and its time would not be seen. */
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET((size_t)sched_getcpu(), &here);
    if (sched_setaffinity(0, sizeof here, &here))
        err(2, "sched_setaffinity");

    struct packet p = {
        .ip = {.version = 4, .ihl = 5, .ttl = 64, .tot_len = htons(sizeof p)},
    };
    if (tcp) {
        p.ip.protocol = IPPROTO_TCP;
        p.tcp = (struct tcphdr){.dest = htons(80), .doff = sizeof p.tcp / 4, .ack = 1};
    } else {
        p.ip.protocol = IPPROTO_UDP;
        p.udp = (struct udphdr){.dest = htons(80), .len = htons(sizeof p - sizeof p.ip)}; /* IPv4 needs no sum */
    }
    uint64_t before = received(counters, arrival);
    int64_t start = now();
    for (uint32_t sent = 0; sent < flows && now() - start < limit;) {
        int64_t began = now();
        uint32_t end = sent + batch < flows ? sent + batch : flows, first = sent;
        for (; sent < end; sent++) {
            p.ip.saddr = htonl(FIRST_SOURCE + sent / PORTS);
            p.udp.source = htons((uint16_t)(1024 + sent % PORTS)); /* at the same place as TCP's */
            /* Knuth's multiplicative hash: neighbours in time are no neighbours in memory. */
            p.ip.daddr = htonl(destination + (sent * 2654435761u >> 8) % destinations);
            p.ip.check = 0;
            p.ip.check = checksum(&p.ip);
            if (sendto(out, &p, sizeof p, 0, (struct sockaddr *)&to, sizeof to) != sizeof p)
                err(1, "sendto");
        }
        while (received(counters, arrival) - before < sent)
            if (now() - began > PATIENCE)
                errx(1, "%" PRIu64 " of %u packets arrived", received(counters, arrival) - before, sent);
        printf("%u %" PRId64 "\n", sent - first, now() - began);
    }
    return 0;
}
