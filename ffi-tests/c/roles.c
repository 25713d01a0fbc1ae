/* Role management and handover: every state of a node, and a cluster of four in one process. */
#include "test.h"

#include <pthread.h>
#include <time.h>

enum { VOTER = 0, STANDBY = 1, SPARE = 2, MEMBERS = 4 };

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* A connection that has made its handshake. */
static int greet(const char *address)
{
    uint64_t hello = 1;
    int fd = test_connect_abstract(address);
    if (fd >= 0) {
        test_send(fd, &hello, 1);
    }
    return fd;
}

/* Position of the leader among the addresses, as a running node knows it; -1 if it knows of none. */
static int leader(const char *const *addresses, int asked)
{
    uint64_t ask[] = {test_header(1, 0), 0}, words[64];
    size_t count;
    int i, fd = greet(addresses[asked]);
    if (fd < 0) {
        return -1;
    }
    test_send(fd, ask, 2);
    EQUAL(test_response(fd, words, 64, &count), 1);
    close(fd);
    for (i = 0; i < MEMBERS; i++) {
        if (strcmp((const char *)&words[1], addresses[i]) == 0) {
            return i;
        }
    }
    return -1;
}

/* Roles by id - 1, as the leader has them; false if there is none at the moment. */
static bool roles(const char *const *addresses, const bool *up, int *found, int *leads)
{
    uint64_t ask[] = {test_header(1, 16), 1}, words[256];
    size_t count, at = 1;
    int i, fd;
    *leads = -1;
    for (i = 0; i < MEMBERS && *leads < 0; i++) {
        *leads = up[i] ? leader(addresses, i) : -1;
    }
    if (*leads < 0 || !up[*leads] || leader(addresses, *leads) != *leads || (fd = greet(addresses[*leads])) < 0) {
        return false;
    }
    test_send(fd, ask, 2);
    EQUAL(test_response(fd, words, 256, &count), 3);
    close(fd);
    for (i = 0; i < MEMBERS; i++) {
        found[i] = -1;
    }
    for (i = 0; i < (int)words[0]; i++) {
        uint64_t id = words[at];
        at += 1 + strlen((const char *)&words[at + 1]) / 8 + 1;
        found[id - 1] = (int)words[at++];
    }
    return true;
}

/* Waits until that many have each role. */
static void wait_for(const char *const *addresses, const bool *up, int voters, int standbys, int *found, int *leads)
{
    double deadline = now() + 100;
    for (;;) {
        int counted[3] = {0, 0, 0}, i;
        if (roles(addresses, up, found, leads)) {
            for (i = 0; i < MEMBERS; i++) {
                if (found[i] >= 0) {
                    counted[found[i]]++;
                }
            }
            if (counted[VOTER] == voters && counted[STANDBY] == standbys) {
                return;
            }
        }
        CHECK(now() < deadline);
        usleep(100000);
    }
}

static void add(const char *to, uint64_t id, const char *address)
{
    uint64_t words[64];
    size_t count, text = strlen(address) / 8 + 1;
    uint8_t type = 0;
    double deadline = now() + 60;
    while (type != 8) { /* Role management may be busy with another change. */
        int fd = greet(to);
        CHECK(fd >= 0 && now() < deadline);
        memset(words, 0, sizeof words);
        words[0] = test_header((uint32_t)(1 + text), 12);
        words[1] = id;
        memcpy(words + 2, address, strlen(address));
        test_send(fd, words, 2 + text);
        type = test_response(fd, words, 64, &count);
        close(fd);
        usleep(50000);
    }
}

static void states_of_a_lone_node(const char *base)
{
    dqlite_node *node = NULL;
    const char *text;
    double begun;

    EQUAL(dqlite_node_handover(NULL), DQLITE_MISUSE);
    EQUAL(dqlite_node_enable_role_management(NULL), DQLITE_MISUSE);
    EQUAL(dqlite_node_create(1, "1", "/nonexistent", &node), DQLITE_ERROR);
    EQUAL(dqlite_node_handover(node), DQLITE_MISUSE);
    EQUAL(dqlite_node_enable_role_management(node), DQLITE_MISUSE);
    dqlite_node_destroy(node);

    /* An address that leads nowhere: C would take the vote of the only voter. */
    node = test_node(1, "@dqlite-nobody-is-here", test_dir(base, "lone"));
    text = dqlite_node_errmsg(node);
    EQUAL(dqlite_node_handover(node), DQLITE_MISUSE);
    OK_ON(node, dqlite_node_enable_role_management(node));
    OK_ON(node, dqlite_node_set_network_latency_ms(node, 10));
    OK_ON(node, dqlite_node_set_bind_address(node, test_name("lone")));
    OK_ON(node, dqlite_node_start(node));
    sleep(3);
    {
        int fd = test_connect_abstract(test_name("lone"));
        CHECK(fd >= 0);
        test_open(fd);
        EQUAL(test_exec(fd, "CREATE TABLE t (n)"), 6);
        close(fd);
    }
    begun = now();
    EQUAL(dqlite_node_handover(node), DQLITE_ERROR);
    CHECK(strstr(text, "handover: no other node") != NULL);
    EQUAL(dqlite_node_handover(node), DQLITE_ERROR);
    CHECK(now() - begun < 30);
    EQUAL(dqlite_node_stop(node), 0);
    EQUAL(dqlite_node_handover(node), DQLITE_MISUSE);
    OK_ON(node, dqlite_node_enable_role_management(node));
    dqlite_node_destroy(node);
}

static void a_node_that_belongs_to_no_cluster(const char *base)
{
    dqlite_node *node = test_started(7, test_name("stray"), test_dir(base, "stray"));
    EQUAL(dqlite_node_handover(node), DQLITE_ERROR);
    SAME_TEXT(dqlite_node_errmsg(node), "handover: this node is not a member of a cluster");
    EQUAL(dqlite_node_stop(node), 0);
    dqlite_node_destroy(node);
}

static void *hand_over(void *node)
{
    return (void *)(intptr_t)dqlite_node_handover(node);
}

/* Without a quorum a handover takes its time; a stop ends it. */
static void stop_during_a_handover(const char *base)
{
    dqlite_node *node = test_node(1, "1", test_dir(base, "torn"));
    dqlite_node_info infos[2] = {{1, "1"}, {2, "@dqlite-nobody-is-here"}};
    pthread_t thread;
    void *result;
    OK_ON(node, dqlite_node_recover(node, infos, 2));
    OK_ON(node, dqlite_node_set_bind_address(node, test_name("torn")));
    OK_ON(node, dqlite_node_start(node));
    EQUAL(pthread_create(&thread, NULL, hand_over, node), 0);
    usleep(500000);
    EQUAL(dqlite_node_stop(node), 0);
    EQUAL(pthread_join(thread, &result), 0);
    EQUAL((intptr_t)result, DQLITE_ERROR);
    CHECK(strstr(dqlite_node_errmsg(node), "stop") != NULL);
    dqlite_node_destroy(node);
}

static void a_cluster_of_four(const char *base)
{
    static const char *names[MEMBERS] = {"one", "two", "three", "four"};
    const char *addresses[MEMBERS], *dirs[MEMBERS];
    dqlite_node *nodes[MEMBERS];
    bool up[MEMBERS];
    int found[MEMBERS], leads, i, before;

    for (i = 0; i < MEMBERS; i++) {
        addresses[i] = test_name(names[i]);
        dirs[i] = test_dir(base, names[i]);
        nodes[i] = test_node((dqlite_node_id)i + 1, addresses[i], dirs[i]);
        OK_ON(nodes[i], dqlite_node_set_network_latency_ms(nodes[i], 60));
        OK_ON(nodes[i], dqlite_node_set_target_voters(nodes[i], 3));
        OK_ON(nodes[i], dqlite_node_set_target_standbys(nodes[i], 1));
        OK_ON(nodes[i], dqlite_node_enable_role_management(nodes[i]));
        OK_ON(nodes[i], dqlite_node_set_bind_address(nodes[i], addresses[i]));
        OK_ON(nodes[i], dqlite_node_start(nodes[i]));
        up[i] = true;
    }
    for (i = 1; i < MEMBERS; i++) {
        add(addresses[0], (uint64_t)i + 1, addresses[i]);
    }
    wait_for(addresses, up, 3, 1, found, &leads);

    /* The leader goes: the stand-by takes its vote, and another voter leads. */
    before = leads;
    OK_ON(nodes[before], dqlite_node_handover(nodes[before]));
    wait_for(addresses, up, 3, 0, found, &leads);
    CHECK(leads != before);
    EQUAL(found[before], SPARE);
    /* It has nothing left to hand over. */
    OK_ON(nodes[before], dqlite_node_handover(nodes[before]));
    EQUAL(dqlite_node_stop(nodes[before]), 0);
    dqlite_node_destroy(nodes[before]);
    up[before] = false;

    /* A voter is lost: two go on, and the one that comes back is needed. */
    for (i = 0; i < MEMBERS && (i == leads || !up[i]); i++) {
    }
    EQUAL(dqlite_node_stop(nodes[i]), 0);
    dqlite_node_destroy(nodes[i]);
    up[i] = false;
    nodes[before] = test_node((dqlite_node_id)before + 1, addresses[before], dirs[before]);
    OK_ON(nodes[before], dqlite_node_set_network_latency_ms(nodes[before], 60));
    OK_ON(nodes[before], dqlite_node_set_bind_address(nodes[before], addresses[before]));
    OK_ON(nodes[before], dqlite_node_start(nodes[before]));
    up[before] = true;
    {
        double deadline = now() + 100;
        do {
            CHECK(now() < deadline);
            wait_for(addresses, up, 3, 0, found, &leads);
        } while (found[before] != VOTER || found[i] != SPARE);
    }
    for (i = 0; i < MEMBERS; i++) {
        if (up[i]) {
            EQUAL(dqlite_node_stop(nodes[i]), 0);
            dqlite_node_destroy(nodes[i]);
        }
    }
}

int main(int argc, char **argv)
{
    const char *base = test_base(argc, argv);
    int descriptors = test_descriptors();
    alarm(300); /* Silences and elections take their time, under valgrind above all. */
    states_of_a_lone_node(base);
    a_node_that_belongs_to_no_cluster(base);
    stop_during_a_handover(base);
    a_cluster_of_four(base);
    EQUAL(test_threads(), 1);
    CHECK(test_descriptors() <= descriptors);
    return 0;
}
