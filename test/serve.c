/*
A file server for test/test_download.sh, and for nothing else: HTTP/1.1, GET and HEAD, one request after the other, files of
one folder, on 127.0.0.1 only. It prints its port first, and then may be asked:

    serve [--cut N] [--flip N] [--no-range] [--deaf] [--seconds N] FOLDER LOG

--cut N       no answer holds more than N bytes of the file, whatever its Content-Length promises
--flip N      byte N of every file arrives with its bits turned over
--no-range    answers as if it had never heard of Range, with the whole file
--deaf        keeps its port and refuses every connection: a server that is down, on a port that nobody else can get
--seconds N   it ends by itself after that time (60)

LOG gets a line for every request: method, path, status, first byte, and how many bytes of the file really went out.
*/
#define _POSIX_C_SOURCE 200809L
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

static long cut = -1, flip = -1;
static int ranges = 1, deaf = 0;

static void must(int good, const char* what) {
    if (good) { return; }
    perror(what);
    exit(1);
}

static int send_all(int to, const char* bytes, long n) {
    while (n > 0) {
        ssize_t sent = send(to, bytes, (size_t)n, 0);
        if (sent <= 0) { return 0; }
        bytes += sent;
        n -= sent;
    }
    return 1;
}

// Reads up to the blank line that ends the head of a request; 0 if none comes.
static int read_head(int from, char* head, size_t size) {
    size_t n = 0;
    while (n + 1 < size) {
        ssize_t got = recv(from, head + n, size - 1 - n, 0);
        if (got <= 0) { return 0; }
        n += (size_t)got;
        head[n] = 0;
        if (strstr(head, "\r\n\r\n")) { return 1; }
    }
    return 0;
}

// The first byte that is asked for: `Range: bytes=123-`, the only form that resuming needs; 0 without one.
static long range_start(const char* head) {
    for (const char* line = head; (line = strstr(line, "\r\n")) != NULL; ) {
        line += 2;
        if (strncasecmp(line, "Range: bytes=", 13) == 0) { return strtol(line + 13, NULL, 10); }
    }
    return 0;
}

static void answer(int client, int folder, FILE* log) {
    char head[8192], method[8], path[256], reply[512], block[65536];
    if (!read_head(client, head, sizeof head) || sscanf(head, "%7s /%255s HTTP/1.", method, path) != 2) { return; }
    int is_get = strcmp(method, "GET") == 0;
    int file = strchr(path, '/') || strstr(path, "..") ? -1 : openat(folder, path, O_RDONLY);
    struct stat info;
    memset(&info, 0, sizeof info);
    int status = 200;
    long first = ranges ? range_start(head) : 0, sent = 0;
    if (!is_get && strcmp(method, "HEAD") != 0) { status = 405; }
    else if (file < 0 || fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) { status = 404; }
    else if (first > 0) { status = first < info.st_size ? 206 : 416; }
    long size = (long)info.st_size, left = status < 300 ? size - first : 0;
    int n = snprintf(reply, sizeof reply, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: %ld\r\n", status,
                     status < 300 ? "OK" : "no", left);
    if (ranges && status < 300) { n += snprintf(reply + n, sizeof reply - (size_t)n, "Accept-Ranges: bytes\r\n"); }
    if (status == 206) {
        n += snprintf(reply + n, sizeof reply - (size_t)n, "Content-Range: bytes %ld-%ld/%ld\r\n", first, size - 1, size);
    }
    n += snprintf(reply + n, sizeof reply - (size_t)n, "\r\n");
    int going = send_all(client, reply, n) && is_get;
    if (cut >= 0 && left > cut) { left = cut; }
    while (going && left > 0) {
        long at = first + sent, got = (long)pread(file, block, left < (long)sizeof block ? (size_t)left : sizeof block, at);
        if (got <= 0) { break; }
        if (flip >= at && flip < at + got) { block[flip - at] = (char)~block[flip - at]; }
        going = send_all(client, block, got);
        if (going) { sent += got; left -= got; }
    }
    if (file >= 0) { close(file); }
    fprintf(log, "%s /%s %d %ld %ld\n", method, path, status, first, sent);
    fflush(log);
}

int main(int argc, char** argv) {
    unsigned seconds = 60;
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--no-range") == 0) { ranges = 0; }
        else if (strcmp(argv[i], "--deaf") == 0) { deaf = 1; }
        else if (i + 1 < argc && strcmp(argv[i], "--cut") == 0) { cut = atol(argv[++i]); }
        else if (i + 1 < argc && strcmp(argv[i], "--flip") == 0) { flip = atol(argv[++i]); }
        else if (i + 1 < argc && strcmp(argv[i], "--seconds") == 0) { seconds = (unsigned)atol(argv[++i]); }
        else { break; }
    }
    if (argc - i != 2 || seconds == 0) { fprintf(stderr, "usage: serve [options] FOLDER LOG (see serve.c)\n"); return 2; }
    int folder = open(argv[i], O_RDONLY);
    must(folder >= 0, argv[i]);
    FILE* log = fopen(argv[i + 1], "w");
    must(log != NULL, argv[i + 1]);

    struct sockaddr_in address;
    socklen_t length = sizeof address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK); // port 0: the system picks a free one
    int door = socket(AF_INET, SOCK_STREAM, 0);
    must(door >= 0, "socket");
    must(bind(door, (struct sockaddr*)&address, sizeof address) == 0, "bind");
    must(deaf || listen(door, 16) == 0, "listen");
    must(getsockname(door, (struct sockaddr*)&address, &length) == 0, "getsockname");

    printf("%d\n", ntohs(address.sin_port));
    fclose(stdout); // whoever reads the port through a pipe need not wait for the end
    signal(SIGPIPE, SIG_IGN);
    alarm(seconds);
    while (deaf) { pause(); }
    for (;;) {
        int client = accept(door, NULL, NULL);
        if (client < 0) { continue; }
        struct timeval patience = {5, 0};
        setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        answer(client, folder, log);
        shutdown(client, SHUT_WR);
        close(client);
    }
}
