/* A client that opens many connections, or keeps some, and says what each request took and who answered.
 *
 *     client KEEP CONCURRENCY RATE REQUESTS MILLISECONDS ADDRESS:PORT...
 *
 * KEEP          1: requests go over CONCURRENCY connections that stay; 0: each has a connection of its own,
 *               which the other side closes first
 * CONCURRENCY   how many requests are under way at most
 * RATE          requests a second, each begun at its time, whatever became of others; 0: as fast as possible
 * REQUESTS      begins no more than so many
 * MILLISECONDS  begins none after that; none also when standard input ends
 *
 * The targets take turns. Prints lines that end in how often a thing happened, so that those of several clients
 * can be added: `answer PORT` counts who answered; `refused`, `reset`, `timeout` and `closed` count requests that
 * nobody did, `hung` connections that did not end after the answer; `latency NANOSECONDS` counts answers that came
 * so long after their request was due, to 1 part in 64. `elapsed` and `processor` are nanoseconds.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)
#define PATIENCE (5 * SECOND)
#define STEPS 64 /* of the histogram, from one power of two to the next */

enum { REFUSED, RESET, TIMEOUT, CLOSED, HUNG, FAILURES };
static const char *const failure_names[FAILURES] = {"refused", "reset", "timeout", "closed", "hung"};

struct slot {
    int fd; /* -1: free */
    int asked, answered;
    int64_t due;
    size_t length;
    char text[512];
};

static int64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static int poller, keep;
static struct sockaddr_in *targets;
static uint64_t target_count, started, opened, completed, failures[FAILURES], answers[65536], latencies[64 * STEPS];
static uint32_t *idle, idle_count;
static struct slot *slots;

static const char requests[2][64] = {"GET / HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n",
                                     "GET / HTTP/1.1\r\nHost: b\r\n\r\n"};

static void let_go(struct slot *slot) {
    if (slot->fd >= 0)
        close(slot->fd);
    slot->fd = -1;
    if (!keep || !slot->answered) /* else it waits for its next request already */
        idle[idle_count++] = (uint32_t)(slot - slots);
}

static void fail(struct slot *slot, int how) {
    failures[how]++;
    let_go(slot);
}

static void fail_by(struct slot *slot, int error) {
    fail(slot, error == ECONNREFUSED ? REFUSED : error == ETIMEDOUT ? TIMEOUT : RESET);
}

/* The connection is over: no loss where the answer was here. */
static void end(struct slot *slot, int error) {
    if (slot->answered)
        let_go(slot);
    else if (error)
        fail_by(slot, error);
    else
        fail(slot, CLOSED);
}

static void ask(struct slot *slot) {
    slot->asked = 1;
    slot->length = 0;
    if (send(slot->fd, requests[keep], strlen(requests[keep]), MSG_NOSIGNAL) < 0)
        fail_by(slot, errno);
}

static void begin(struct slot *slot, int64_t due) {
    slot->due = due;
    slot->answered = 0;
    const struct sockaddr_in *target = &targets[started++ % target_count];
    if (slot->fd >= 0) {
        ask(slot);
        return;
    }
    int on = 1;
    slot->asked = 0;
    slot->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (slot->fd < 0)
        err(2, "socket");
    opened++;
    setsockopt(slot->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(slot->fd, (const struct sockaddr *)target, sizeof *target) && errno != EINPROGRESS) {
        fail_by(slot, errno);
        return;
    }
    /* Edge by edge: writable once, then readable. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = slot};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, slot->fd, &event))
        err(2, "epoll_ctl");
}

static size_t step(int64_t nanoseconds) {
    uint64_t value = nanoseconds < STEPS ? STEPS : (uint64_t)nanoseconds;
    int shift = 63 - __builtin_clzll(value) - 6;
    return (size_t)shift * STEPS + (value >> shift) - STEPS;
}

/* The least value of a step. */
static uint64_t value(size_t step) {
    return (step % STEPS + STEPS) << step / STEPS;
}

/* The port that answered, once its answer is whole; 0 before. */
static int whole(const struct slot *slot) {
    const char *body = strstr(slot->text, "\r\n\r\n"), *length = strcasestr(slot->text, "content-length: ");
    if (body == NULL || length == NULL || strlen(body + 4) < strtoul(length + 16, NULL, 10))
        return 0;
    return atoi(body + 4);
}

static void hear(struct slot *slot) {
    for (;;) {
        ssize_t heard = recv(slot->fd, slot->text + slot->length, sizeof slot->text - 1 - slot->length, 0);
        if (heard < 0) {
            if (errno != EAGAIN)
                end(slot, errno);
            return;
        }
        if (heard == 0) {
            end(slot, 0);
            return;
        }
        slot->length += (size_t)heard;
        slot->text[slot->length] = 0;
        int port = slot->answered ? 0 : whole(slot);
        if (port) {
            slot->answered = 1;
            answers[(uint16_t)port]++;
            completed++;
            latencies[step(now(CLOCK_MONOTONIC) - slot->due)]++;
            if (keep) {
                idle[idle_count++] = (uint32_t)(slot - slots);
                return;
            }
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 7)
        errx(2, "at least six arguments");
    keep = atoi(argv[1]) != 0;
    uint32_t concurrency = (uint32_t)atol(argv[2]);
    int64_t rate = atol(argv[3]), limit = atol(argv[5]) * (SECOND / 1000);
    uint64_t most = strtoull(argv[4], NULL, 10);
    target_count = (uint64_t)(argc - 6);
    targets = calloc(target_count, sizeof *targets);
    for (uint64_t i = 0; i < target_count; i++) {
        char *colon = strchr(argv[6 + i], ':');
        if (colon == NULL)
            errx(2, "no port: %s", argv[6 + i]);
        *colon = 0;
        targets[i] = (struct sockaddr_in){.sin_family = AF_INET,
                                          .sin_port = htons((uint16_t)atoi(colon + 1)),
                                          .sin_addr.s_addr = inet_addr(argv[6 + i])};
    }
    slots = calloc(concurrency, sizeof *slots);
    idle = calloc(concurrency, sizeof *idle);
    for (uint32_t i = 0; i < concurrency; i++) {
        slots[i].fd = -1;
        idle[idle_count++] = concurrency - 1 - i;
    }
    poller = epoll_create1(0);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), going = 1, alarm_set = 0;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &timer};
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    event.data.ptr = &going;
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event); /* refused for /dev/null: it never ends */

    int64_t start = now(CLOCK_MONOTONIC), processor = now(CLOCK_PROCESS_CPUTIME_ID), looked = start, time = start;
    while (going || idle_count < concurrency) {
        time = now(CLOCK_MONOTONIC);
        going = going && started < most && time - start < limit;
        while (going && idle_count && started < most) {
            int64_t due = rate ? start + (int64_t)started * SECOND / rate : now(CLOCK_MONOTONIC);
            if (due > time && rate) {
                if (!alarm_set) {
                    struct itimerspec at = {.it_value = {due / SECOND, due % SECOND}};
                    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
                    alarm_set = 1;
                }
                break;
            }
            begin(&slots[idle[--idle_count]], due);
        }
        struct epoll_event events[256];
        int ready = epoll_wait(poller, events, 256, 50);
        for (int i = 0; i < ready; i++) {
            struct slot *slot = events[i].data.ptr;
            if (events[i].data.ptr == &timer) {
                uint64_t ignored;
                alarm_set = 0;
                if (read(timer, &ignored, sizeof ignored) < 0 && errno != EAGAIN)
                    err(2, "timer");
            } else if (events[i].data.ptr == &going) {
                going = 0;
                epoll_ctl(poller, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
            } else if (slot->fd >= 0) {
                if (!slot->asked && events[i].events & EPOLLOUT && !(events[i].events & EPOLLERR))
                    ask(slot);
                if (slot->fd >= 0 && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
                    hear(slot);
            }
        }
        if (time - looked > SECOND / 10) {
            looked = time;
            for (uint32_t i = 0; i < concurrency; i++)
                if (slots[i].fd >= 0 && !(keep && slots[i].answered) && time - slots[i].due > PATIENCE)
                    fail(&slots[i], slots[i].answered ? HUNG : TIMEOUT);
        }
    }
    int64_t end = now(CLOCK_MONOTONIC);
    processor = now(CLOCK_PROCESS_CPUTIME_ID) - processor;
    printf("started %" PRIu64 "\nopened %" PRIu64 "\ncompleted %" PRIu64 "\n", started, opened, completed);
    printf("elapsed %" PRId64 "\nprocessor %" PRId64 "\n", end - start, processor);
    for (int i = 0; i < FAILURES; i++)
        printf("%s %" PRIu64 "\n", failure_names[i], failures[i]);
    for (int port = 0; port < 65536; port++)
        if (answers[port])
            printf("answer %d %" PRIu64 "\n", port, answers[port]);
    for (size_t i = 0; i < sizeof latencies / sizeof *latencies; i++)
        if (latencies[i])
            printf("latency %" PRIu64 " %" PRIu64 "\n", value(i), latencies[i]);
    return 0;
}
