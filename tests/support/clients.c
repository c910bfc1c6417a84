/* Clients that open connections at a steady rate, as long as the machine can.
 *
 *     clients RATE PATIENCE ADDRESS:PORT SOURCE...
 *
 * RATE       connections a second, each begun at its time. Fewer if 1024 are under way, or if this process
 *            gets too little CPU time: a network that loses packets for lack of that says nothing
 *            about balancers
 * PATIENCE   milliseconds that a connection may take until its answer
 * SOURCE     an address that connections come from; all of them take turns
 *
 * Each connection waits for the first bytes from the other side, then ends by a reset, so that nothing of it is
 * left that could answer for a later one. Ends when standard input does, once no connection is under way, and
 * prints lines:
 *
 *     began COUNT SECONDS      connections, and the time from the first to the last
 *     answer TEXT COUNT        answers with this text
 *     failed SECONDS WHY       one connection without an answer: when it began on the monotonic clock, and why
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)
#define MOST 1024        /* connections under way */
#define DEBT (SECOND / 10) /* behind its time by more, a connection is not caught up on */
#define TEXTS 64

struct connection {
    int fd; /* -1: none */
    int64_t began;
};

static struct connection connections[MOST];
static int unused[MOST], unused_count, poller;
static struct {
    char text[64];
    uint64_t count;
} answers[TEXTS];

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static void end(struct connection *c) {
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    unused[unused_count++] = (int)(c - connections);
}

static void fail(struct connection *c, const char *why) {
    printf("failed %.6f %s\n", (double)c->began / SECOND, why);
    end(c);
}

static void count(const char *text) {
    for (int i = 0; i < TEXTS; i++)
        if (!*answers[i].text || !strcmp(answers[i].text, text)) {
            snprintf(answers[i].text, sizeof answers[i].text, "%s", text);
            answers[i].count++;
            return;
        }
    errx(2, "more than %d different answers", TEXTS);
}

static void begin(struct connection *c, struct in_addr source, const struct sockaddr_in *target) {
    static const struct linger reset = {.l_onoff = 1};
    static const int on = 1;
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = source};
    c->began = now();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        err(2, "socket");
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from))
        err(2, "bind");
    if (connect(c->fd, (const struct sockaddr *)target, sizeof *target) && errno != EINPROGRESS) {
        fail(c, strerror(errno));
        return;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event))
        err(2, "epoll_ctl");
}

static void hear(struct connection *c) {
    char text[64];
    ssize_t heard = recv(c->fd, text, sizeof text - 1, 0);
    if (heard < 0 && errno == EAGAIN)
        return;
    if (heard < 0) {
        fail(c, strerror(errno));
    } else if (heard == 0) {
        fail(c, "closed without an answer");
    } else {
        text[heard] = 0;
        count(text);
        end(c);
    }
}

int main(int argc, char **argv) {
    if (argc < 5)
        errx(2, "RATE PATIENCE ADDRESS:PORT SOURCE...");
    int64_t rate = atol(argv[1]), patience = atol(argv[2]) * (SECOND / 1000);
    char *colon = strchr(argv[3], ':');
    if (rate < 1 || patience < 1 || colon == NULL)
        errx(2, "RATE, PATIENCE or ADDRESS:PORT is wrong");
    *colon = 0;
    struct sockaddr_in target = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)atoi(colon + 1)),
                                 .sin_addr.s_addr = inet_addr(argv[3])};
    struct rlimit files = {MOST + 64, MOST + 64};
    if (setrlimit(RLIMIT_NOFILE, &files))
        err(2, "setrlimit");
    for (int i = MOST; i-- > 0;) {
        connections[i].fd = -1;
        unused[unused_count++] = i;
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event))
        err(2, "standard input");

    uint64_t begun = 0;
    int64_t start = now(), looked = start, time = start, last = start, due = start;
    int going = 1;
    while (going || unused_count < MOST) {
        time = now();
        if (due + DEBT < time)
            due = time;
        while (going && unused_count && due <= time) {
            struct in_addr source = {inet_addr(argv[4 + begun % (uint64_t)(argc - 4)])};
            begin(&connections[unused[--unused_count]], source, &target);
            begun++;
            due += SECOND / rate;
            last = time;
        }
        struct epoll_event events[256];
        int ready = epoll_wait(poller, events, 256, 1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c == NULL) {
                going = 0;
                epoll_ctl(poller, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
            } else if (c->fd >= 0) {
                hear(c);
            }
        }
        if (time - looked > SECOND / 10) {
            looked = time;
            for (int i = 0; i < MOST; i++)
                if (connections[i].fd >= 0 && time - connections[i].began > patience)
                    fail(&connections[i], "timeout");
        }
    }
    printf("began %ju %.6f\n", (uintmax_t)begun, (double)(last - start) / SECOND);
    for (int i = 0; i < TEXTS && *answers[i].text; i++)
        printf("answer %s %ju\n", answers[i].text, (uintmax_t)answers[i].count);
    return 0;
}
