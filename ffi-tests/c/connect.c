/* The contract of the connect function. A node that was told of a second voter tries to reach it; the test plays that
 * voter with one end of a socketpair. */
#include "test.h"

#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int calls;
static int other_end = -1;
static char cookie;
static pthread_t main_thread;

/* First a failure, then something that is no socket, then a connection; nothing more after that. */
static int dial(void *arg, const char *address, int *fd)
{
    int pair[2], call;

    CHECK(arg == &cookie);
    SAME_TEXT(address, "far away");
    CHECK(!pthread_equal(pthread_self(), main_thread));
    pthread_mutex_lock(&lock);
    call = calls++;
    if (call == 0) {
        pthread_mutex_unlock(&lock);
        *fd = 0; /* Not to be looked at. */
        return 16;
    }
    if (call == 1) {
        *fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        pthread_mutex_unlock(&lock);
        return 0;
    }
    if (call == 2) {
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        other_end = pair[0];
        *fd = pair[1];
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
        return 0;
    }
    pthread_mutex_unlock(&lock);
    return 16;
}

int main(int argc, char **argv)
{
    const char *base = test_base(argc, argv);
    dqlite_node *node = test_node(1, "1", test_dir(base, "node"));
    dqlite_node_info infos[2] = {{1, "1"}, {2, "far away"}};
    int before = test_descriptors();
    uint64_t words[4];
    char rest[256];
    size_t extra;
    struct timespec deadline;

    main_thread = pthread_self();
    OK_ON(node, dqlite_node_set_network_latency_ms(node, 10));
    OK_ON(node, dqlite_node_set_bind_address(node, "@"));
    OK_ON(node, dqlite_node_set_connect_func(node, dial, &cookie));
    OK_ON(node, dqlite_node_start(node));
    EQUAL(dqlite_node_stop(node), 0);
    EQUAL(calls, 0); /* Alone, nobody is called. */
    dqlite_node_destroy(node);

    {
        char dir[600];
        snprintf(dir, sizeof dir, "%s/node", base);
        node = test_node(1, "1", dir);
    }
    OK_ON(node, dqlite_node_recover(node, infos, 2));
    OK_ON(node, dqlite_node_set_network_latency_ms(node, 10));
    OK_ON(node, dqlite_node_set_bind_address(node, "@"));
    OK_ON(node, dqlite_node_set_connect_func(node, dial, &cookie));
    OK_ON(node, dqlite_node_start(node));

    pthread_mutex_lock(&lock);
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 20;
    while (other_end == -1) {
        EQUAL(pthread_cond_timedwait(&changed, &lock, &deadline), 0);
    }
    pthread_mutex_unlock(&lock);

    /* Version, header of a CONNECT request, id and address of the sender. */
    EQUAL(test_read(other_end, words, sizeof words), sizeof words);
    EQUAL(words[0], 1);
    EQUAL(words[1] >> 32, 11); /* Behind the address stand words that C ignores. */
    EQUAL(words[2], 1);
    EQUAL(words[3], test_word("1"));
    extra = ((uint32_t)words[1] - 2) * 8;
    CHECK(extra <= sizeof rest);
    EQUAL(test_read(other_end, rest, extra), extra);
    /* Then raft: a question about a vote. */
    EQUAL(test_read(other_end, words, 8), 8);
    EQUAL(words[0] & 0xff, 3);

    /* The node owns its end of the pair and closes it. */
    EQUAL(dqlite_node_stop(node), 0);
    while (read(other_end, rest, sizeof rest) > 0) {
    }
    close(other_end);
    dqlite_node_destroy(node);
    CHECK(calls >= 3);
    CHECK(test_descriptors() <= before);
    return 0;
}
