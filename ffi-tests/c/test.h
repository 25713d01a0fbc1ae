/* What the C programs share: checks that name their line, directories, a few words of the client protocol.
 * A program gets an empty directory as its argument and exits with 0 if everything held. */
#ifndef TEST_H
#define TEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <dqlite.h>

#define UNUSED __attribute__((unused))

#define CHECK(condition)                                                          \
    do {                                                                          \
        if (!(condition)) {                                                       \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                              \
        }                                                                         \
    } while (0)

#define EQUAL(found, wanted)                                                                   \
    do {                                                                                       \
        long long found_ = (long long)(found), wanted_ = (long long)(wanted);                  \
        if (found_ != wanted_) {                                                               \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #found, found_, \
                    wanted_);                                                                  \
            exit(1);                                                                           \
        }                                                                                      \
    } while (0)

#define SAME_TEXT(found, wanted)                                                                   \
    do {                                                                                           \
        const char *found_ = (found), *wanted_ = (wanted);                                         \
        if (found_ == NULL || strcmp(found_, wanted_) != 0) {                                      \
            fprintf(stderr, "%s:%d: %s is \"%s\", not \"%s\"\n", __FILE__, __LINE__, #found,       \
                    found_ == NULL ? "(NULL)" : found_, wanted_);                                  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* 0, or the text of the node and the end. */
#define OK_ON(node, call)                                                                         \
    do {                                                                                          \
        int result_ = (call);                                                                     \
        if (result_ != 0) {                                                                       \
            fprintf(stderr, "%s:%d: %s returned %d: %s\n", __FILE__, __LINE__, #call, result_,    \
                    dqlite_node_errmsg(node));                                                    \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

/* The last part of the base directory, which no other run has. */
static UNUSED const char *test_tag = "";

static UNUSED const char *test_base(int argc, char **argv)
{
    const char *slash;
    CHECK(argc == 2);
    slash = strrchr(argv[1], '/');
    test_tag = slash == NULL ? argv[1] : slash + 1;
    alarm(120); /* A test that hangs fails. */
    return argv[1];
}

/* An abstract address of this run: programs run beside each other, and all on a machine share these names. */
static UNUSED const char *test_name(const char *name)
{
    static char names[64][128];
    static int used = 0;
    char text[128];
    int i;
    CHECK(snprintf(text, sizeof text, "@dqlite-c-%s-%s", name, test_tag) < (int)sizeof text);
    for (i = 0; i < used; i++) {
        if (strcmp(names[i], text) == 0) {
            return names[i];
        }
    }
    CHECK(used < 64);
    return strcpy(names[used++], text);
}

/* A new directory below the base; the text lives until the program ends. */
static UNUSED const char *test_dir(const char *base, const char *name)
{
    static char paths[64][512];
    static int used = 0;
    char *path;
    CHECK(used < 64);
    path = paths[used++];
    CHECK(snprintf(path, 512, "%s/%s", base, name) < 512);
    CHECK(mkdir(path, 0755) == 0);
    return path;
}

static UNUSED dqlite_node *test_node(dqlite_node_id id, const char *address, const char *dir)
{
    dqlite_node *node = NULL;
    int result = dqlite_node_create(id, address, dir, &node);
    CHECK(node != NULL);
    OK_ON(node, result);
    return node;
}

/* A node that is the only voter of its cluster and quick to notice it. */
static UNUSED dqlite_node *test_started(dqlite_node_id id, const char *address, const char *dir)
{
    dqlite_node *node = test_node(id, address, dir);
    OK_ON(node, dqlite_node_set_network_latency_ms(node, 10));
    OK_ON(node, dqlite_node_set_bind_address(node, address));
    OK_ON(node, dqlite_node_start(node));
    return node;
}

static UNUSED int test_count(const char *directory)
{
    int count = 0;
    DIR *stream = opendir(directory);
    CHECK(stream != NULL);
    while (readdir(stream) != NULL) {
        count++;
    }
    closedir(stream);
    return count;
}

static UNUSED int test_descriptors(void)
{
    return test_count("/proc/self/fd");
}

static UNUSED int test_threads(void)
{
    return test_count("/proc/self/task") - 2;
}

static UNUSED int test_connect_abstract(const char *address)
{
    struct sockaddr_un name;
    size_t len = strlen(address + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    CHECK(address[0] == '@' && len < sizeof name.sun_path - 1);
    memset(&name, 0, sizeof name);
    name.sun_family = AF_UNIX;
    memcpy(name.sun_path + 1, address + 1, len);
    if (connect(fd, (struct sockaddr *)&name, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static UNUSED int test_connect_tcp(int port)
{
    struct sockaddr_in address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)port);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* A port nobody uses now. */
static UNUSED int test_free_port(void)
{
    struct sockaddr_in address;
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&address, &len) == 0);
    close(fd);
    return ntohs(address.sin_port);
}

/* Reads exactly that many bytes within ten seconds; 0 if the other side closed before the first. */
static UNUSED size_t test_read(int fd, void *to, size_t len)
{
    size_t have = 0;
    while (have < len) {
        struct pollfd poller;
        ssize_t got;
        poller.fd = fd;
        poller.events = POLLIN;
        poller.revents = 0;
        EQUAL(poll(&poller, 1, 10000), 1);
        got = read(fd, (char *)to + have, len - have);
        if (got <= 0) {
            CHECK(got == 0 || errno == ECONNRESET);
            CHECK(have == 0);
            return 0;
        }
        have += (size_t)got;
    }
    return have;
}

/* Words are little endian in the protocol; so is every machine these tests run on. */
static UNUSED uint64_t test_header(uint32_t words, uint8_t type)
{
    return words | ((uint64_t)type << 32);
}

static UNUSED void test_send(int fd, const uint64_t *words, size_t count)
{
    EQUAL(send(fd, words, count * 8, MSG_NOSIGNAL), count * 8);
}

static UNUSED uint64_t test_word(const char *text)
{
    uint64_t word = 0;
    CHECK(strlen(text) < 8);
    memcpy(&word, text, strlen(text));
    return word;
}

/* Reads one response into "words"; returns its type. */
static UNUSED uint8_t test_response(int fd, uint64_t *words, size_t capacity, size_t *count)
{
    uint64_t header;
    EQUAL(test_read(fd, &header, 8), 8);
    *count = (uint32_t)header;
    CHECK(*count <= capacity);
    if (*count > 0) {
        EQUAL(test_read(fd, words, *count * 8), *count * 8);
    }
    return (uint8_t)(header >> 32);
}

/* Handshake, client registration and OPEN of "test"; the node must lead. */
static UNUSED void test_open(int fd)
{
    uint64_t words[64];
    size_t count;
    uint64_t hello[] = {1, test_header(1, 1), 7};
    uint64_t open[] = {test_header(3, 3), test_word("test"), 0, test_word("")};
    test_send(fd, hello, 3);
    EQUAL(test_response(fd, words, 64, &count), 2);
    test_send(fd, open, 4);
    EQUAL(test_response(fd, words, 64, &count), 4);
}

/* Executes SQL of at most 511 bytes; returns the type of the response: 6 is success, 0 failure. */
static UNUSED uint8_t test_exec(int fd, const char *sql)
{
    uint64_t words[128];
    size_t count, text = strlen(sql) / 8 + 1;
    CHECK(text <= 64);
    memset(words, 0, sizeof words);
    words[0] = test_header((uint32_t)(1 + text), 8);
    memcpy(words + 2, sql, strlen(sql));
    test_send(fd, words, 2 + text);
    return test_response(fd, words, 128, &count);
}

#endif /* TEST_H */
