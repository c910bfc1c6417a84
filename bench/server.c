/* A backend: one process, one thread, one port, as a Node.js or gunicorn worker is; it answers with its port.
 *
 *     server PORT
 *
 * Prints a line when it listens and ends when its standard input does. A request ends with an empty line; where
 * it says "close", the connection is closed after the answer, by this side, as HTTP servers do.
 */

#define _GNU_SOURCE
#include <err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static void watch(int poller, int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
        err(2, "epoll_ctl");
}

/* False where the connection is over. Requests are far shorter than a segment: each comes whole. */
static int answer(int connection, const char *text, size_t length) {
    char request[1024];
    ssize_t heard = recv(connection, request, sizeof request - 1, MSG_DONTWAIT);
    if (heard < 0)
        return 1; /* nothing yet */
    request[heard] = 0;
    if (heard == 0 || send(connection, text, length, MSG_NOSIGNAL) < 0)
        return 0;
    return strstr(request, "close") == NULL;
}

int main(int argc, char **argv) {
    if (argc != 2)
        errx(2, "a port");
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&place, sizeof place) || listen(listener, 4096))
        err(2, "port %s", argv[1]);
    char text[128];
    size_t length = (size_t)snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s",
                                     strlen(argv[1]), argv[1]);
    int poller = epoll_create1(0);
    watch(poller, listener, EPOLLIN);
    watch(poller, STDIN_FILENO, EPOLLIN);
    puts("listening");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[64];
        int ready = epoll_wait(poller, events, 64, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == STDIN_FILENO)
                return 0;
            if (fd != listener) {
                if (!answer(fd, text, length))
                    close(fd);
                continue;
            }
            for (int made; (made = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                /* The request is often here already: then most connections need no poller. */
                if (answer(made, text, length))
                    watch(poller, made, EPOLLIN);
                else
                    close(made);
            }
        }
    }
}
