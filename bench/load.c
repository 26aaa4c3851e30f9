/* Asks one Unix socket for signatures, and does nothing else: write a request, read its answer, look at the clock.
 *
 *   load KIND SOCKET REQUEST CONNECTIONS SECONDS WAIT
 *
 * KIND says where an answer ends: http (Content-Length, status 200) or ssh (a length in front, SSH_AGENT_SIGN_RESPONSE).
 * REQUEST is a file with the bytes of a request. Each connection has one request in flight. Prints answers, seconds, and
 * the median and 99th percentile of the time from write to answer, in microseconds. WAIT says how a client with one
 * connection waits: "looks" asks for the answer over and over, so that nothing but the other side's time is measured;
 * "sleeps" lets the kernel wake it, which on a virtual processor takes as long as a signature.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 1 << 20, MOST = 1 << 22, REQUEST = 1 << 16, CONNECTIONS = 256 };

struct link {
    int fd;
    size_t have;
    double sent;
    char *data;
};

static char request[REQUEST];
static ssize_t request_size;
static double times[MOST];

static void die(const char *why) {
    perror(why);
    exit(1);
}

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e6 + at.tv_nsec * 1e-3;
}

static void ask(struct link *one) {
    one->have = 0;
    one->sent = now();
    if (write(one->fd, request, request_size) != request_size)
        die("write");
}

/* Bytes of the answer at the start of the buffer, 0 while that is not known. */
static size_t answer_size(const char *kind, struct link *one) {
    const unsigned char *data = (const unsigned char *)one->data;
    if (!strcmp(kind, "ssh")) {
        if (one->have < 5)
            return 0;
        if (data[4] != 14)
            exit(2);
        return 4 + ((size_t)data[0] << 24 | data[1] << 16 | data[2] << 8 | data[3]);
    }
    one->data[one->have] = 0;
    char *end = strstr(one->data, "\r\n\r\n"), *length = strstr(one->data, "Content-Length: ");
    if (!end || !length)
        return 0;
    if (strncmp(one->data, "HTTP/1.1 200 ", 13)) {
        fprintf(stderr, "%s\n", one->data);
        exit(2);
    }
    return end + 4 - one->data + strtoul(length + 16, NULL, 10);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 7)
        return 64;
    int flags = strcmp(argv[6], "looks") ? 0 : MSG_DONTWAIT;
    FILE *file = fopen(argv[3], "rb");
    if (!file || (request_size = fread(request, 1, REQUEST, file)) <= 0)
        die(argv[3]);
    int count = atoi(argv[4]), poll = epoll_create1(0);
    static struct link links[CONNECTIONS];
    struct epoll_event events[CONNECTIONS];
    for (int i = 0; i < count && i < CONNECTIONS; i++) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strncpy(address.sun_path, argv[2], sizeof address.sun_path - 1);
        links[i].fd = socket(AF_UNIX, SOCK_STREAM, 0);
        links[i].data = malloc(ROOM + 1);
        if (connect(links[i].fd, (struct sockaddr *)&address, sizeof address))
            die(argv[2]);
        events[0] = (struct epoll_event){.events = EPOLLIN, .data.ptr = &links[i]};
        epoll_ctl(poll, EPOLL_CTL_ADD, links[i].fd, &events[0]);
    }
    double begun = now(), end = begun + atof(argv[5]) * 1e6;
    for (int i = 0; i < count; i++)
        ask(&links[i]);
    int done = 0;
    while (now() < end && done < MOST) {
        int ready = count == 1 ? 1 : epoll_wait(poll, events, CONNECTIONS, 1000);
        if (count == 1)
            events[0].data.ptr = &links[0];
        for (int i = 0; i < ready && done < MOST; i++) {
            struct link *one = events[i].data.ptr;
            ssize_t got = recv(one->fd, one->data + one->have, ROOM - one->have, count == 1 ? flags : 0);
            if (got < 0 && errno == EAGAIN)
                continue;
            if (got <= 0)
                die("recv");
            one->have += got;
            size_t size = answer_size(argv[1], one);
            if (size && one->have >= size) {
                times[done++] = now() - one->sent;
                ask(one);
            }
        }
    }
    double seconds = (now() - begun) / 1e6;
    if (!done)
        return 3;
    qsort(times, done, sizeof *times, by_size);
    printf("%d %f %f %f\n", done, seconds, times[done / 2], times[(size_t)done * 99 / 100]);
    return 0;
}
