/* Start, stop, destroy: in order, twice, and out of order. Locks, ports, threads, descriptors, files. */
#include "test.h"

#include <pthread.h>

static void files_after_first_start(const char *dir)
{
    char path[600];
    struct stat info;

    snprintf(path, sizeof path, "%s/dqlite-lock", dir);
    EQUAL(stat(path, &info), 0);
    EQUAL(info.st_size, 0);
    EQUAL(info.st_mode & 0777, 0600);
    snprintf(path, sizeof path, "%s/metadata1", dir);
    EQUAL(stat(path, &info), 0);
    EQUAL(info.st_size, 32);
    EQUAL(info.st_mode & 0777, 0600);
    snprintf(path, sizeof path, "%s/0000000000000001-0000000000000001", dir);
    EQUAL(stat(path, &info), 0);
    EQUAL(info.st_mode & 0777, 0600);
}

static void everything_is_closed_on_exec(void)
{
    int fd;
    for (fd = 3; fd < 1024; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags != -1 && !(flags & FD_CLOEXEC)) {
            char link[64], target[256];
            ssize_t len;
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            len = readlink(link, target, sizeof target - 1);
            target[len < 0 ? 0 : len] = '\0';
            /* Not ours: what the test was started with. */
            CHECK(strstr(target, "socket:") == NULL && strstr(target, "anon_inode") == NULL);
            CHECK(strstr(target, "memfd") == NULL && strstr(target, "dqlite") == NULL);
        }
    }
}

static void simple(const char *base)
{
    const char *dir = test_dir(base, "simple");
    dqlite_node *node = test_node(1, test_name("life"), dir);
    const char *text = dqlite_node_errmsg(node);
    uint64_t index = 5, term = 6;

    EQUAL(dqlite_node_describe_last_entry(node, NULL, &term), 2);
    EQUAL(dqlite_node_describe_last_entry(node, &index, NULL), 2);
    OK_ON(node, dqlite_node_describe_last_entry(node, &index, &term));
    EQUAL(index, 0);
    EQUAL(term, 0);

    /* Not running: nothing to stop or hand over; no bind address: nothing to start. */
    EQUAL(dqlite_node_stop(node), 2);
    EQUAL(dqlite_node_handover(node), 2);
    EQUAL(dqlite_node_start(node), 2);
    OK_ON(node, dqlite_node_set_bind_address(node, test_name("life")));
    OK_ON(node, dqlite_node_start(node));
    CHECK(test_threads() > 1);
    everything_is_closed_on_exec();
    files_after_first_start(dir);

    index = 5;
    EQUAL(dqlite_node_describe_last_entry(node, &index, &term), 2);
    EQUAL(index, 5);
    EQUAL(dqlite_node_start(node), 1);
    SAME_TEXT(text, "couldn't lock the raft directory");
    CHECK(dqlite_node_errmsg(node) == text);

    EQUAL(dqlite_node_stop(node), 0);
    EQUAL(dqlite_node_stop(node), 2);
    EQUAL(dqlite_node_handover(node), 2);
    EQUAL(dqlite_node_start(node), 2);
    SAME_TEXT(dqlite_node_get_bind_address(node), test_name("life"));
    EQUAL(test_threads(), 1);
    dqlite_node_destroy(node);

    /* The same directory and address at once, several times; the bootstrap entry is written once. */
    for (int i = 0; i < 3; i++) {
        node = test_node(1, test_name("life"), dir);
        OK_ON(node, dqlite_node_describe_last_entry(node, &index, &term));
        CHECK(index >= 1 && term >= 1);
        dqlite_node_destroy(node);
        node = test_started(1, test_name("life"), dir);
        EQUAL(dqlite_node_stop(node), 0);
        dqlite_node_destroy(node);
    }

    /* Destroying a running node is forbidden, but it must not leave threads behind in freed memory. */
    node = test_started(1, test_name("life"), dir);
    dqlite_node_destroy(node);
    EQUAL(test_threads(), 1);
}

static void ids(const char *base)
{
    dqlite_node *node = test_node(0, test_name("zero"), test_dir(base, "zero"));
    const char *dir = test_dir(base, "other");
    uint64_t index, term;

    OK_ON(node, dqlite_node_set_bind_address(node, test_name("zero")));
    EQUAL(dqlite_node_start(node), 2);
    dqlite_node_destroy(node);

    /* A node with any other id waits to be added to a cluster. */
    node = test_started(77, test_name("other"), dir);
    EQUAL(dqlite_node_stop(node), 0);
    dqlite_node_destroy(node);
    node = test_node(77, test_name("other"), dir);
    OK_ON(node, dqlite_node_describe_last_entry(node, &index, &term));
    EQUAL(index, 0);
    dqlite_node_destroy(node);

    /* go-dqlite's bootstrap id starts a cluster. */
    dir = test_dir(base, "bootstrap");
    node = test_started(0x2dc171858c3155beULL, test_name("boot"), dir);
    files_after_first_start(dir);
    dqlite_node_destroy(node);
}

/* Two nodes bound to a port before either listens: the second start fails, and does not hang. */
static void one_port(const char *base)
{
    char address[64];
    dqlite_node *first = test_node(1, "1", test_dir(base, "port1"));
    dqlite_node *second = test_node(1, "1", test_dir(base, "port2"));
    dqlite_node *third = test_node(1, "1", test_dir(base, "port3"));

    snprintf(address, sizeof address, "127.0.0.1:%d", test_free_port());
    EQUAL(dqlite_node_set_bind_address(first, address), 0);
    EQUAL(dqlite_node_set_bind_address(second, address), 0);
    OK_ON(first, dqlite_node_start(first));
    EQUAL(dqlite_node_start(second), 1);
    CHECK(strlen(dqlite_node_errmsg(second)) > 0);
    EQUAL(dqlite_node_stop(second), 2);
    EQUAL(dqlite_node_set_bind_address(third, address), 1);
    dqlite_node_destroy(third);
    dqlite_node_destroy(second);
    EQUAL(dqlite_node_stop(first), 0);
    dqlite_node_destroy(first);
}

static void one_directory(const char *base)
{
    const char *dir = test_dir(base, "shared");
    dqlite_node *first = test_started(1, test_name("lock1"), dir);
    dqlite_node *second = test_node(1, test_name("lock2"), dir);
    dqlite_node_info info = {1, test_name("lock2")};

    OK_ON(second, dqlite_node_set_bind_address(second, test_name("lock2")));
    EQUAL(dqlite_node_recover(second, &info, 1), 1);
    EQUAL(dqlite_node_start(second), 1);
    SAME_TEXT(dqlite_node_errmsg(second), "couldn't lock the raft directory");
    dqlite_node_destroy(second);
    EQUAL(dqlite_node_stop(first), 0);
    dqlite_node_destroy(first);
}

static void *stop(void *node)
{
    return (void *)(intptr_t)dqlite_node_stop((dqlite_node *)node);
}

static void stopped_from_two_threads(const char *base)
{
    dqlite_node *node = test_started(1, test_name("stops"), test_dir(base, "stops"));
    pthread_t threads[2];
    void *results[2];
    int i;
    for (i = 0; i < 2; i++) {
        EQUAL(pthread_create(&threads[i], NULL, stop, node), 0);
    }
    for (i = 0; i < 2; i++) {
        EQUAL(pthread_join(threads[i], &results[i]), 0);
    }
    EQUAL((intptr_t)results[0] + (intptr_t)results[1], 2);
    dqlite_node_destroy(node);
}

int main(int argc, char **argv)
{
    const char *base = test_base(argc, argv);
    int before = test_descriptors();
    simple(base);
    ids(base);
    one_port(base);
    one_directory(base);
    stopped_from_two_threads(base);
    EQUAL(test_threads(), 1);
    EQUAL(test_descriptors(), before);
    return 0;
}
