/* Every setter with good and bad values: before start, while running, after stop. */
#include "test.h"

static int refuse(void *arg, const char *address, int *fd)
{
    (void)arg;
    (void)address;
    (void)fd;
    return 16;
}

enum state { NEW, RUNNING, STOPPED };

/* Values that are wrong stay wrong; in the other states nothing is accepted at all. */
static void fixed_settings(dqlite_node *node, enum state state)
{
    int good = state == NEW ? 0 : 2;
    size_t size;

    EQUAL(dqlite_node_set_network_latency(node, 0), 2);
    EQUAL(dqlite_node_set_network_latency(node, 999999), 2);
    EQUAL(dqlite_node_set_network_latency(node, 1000000), good);
    EQUAL(dqlite_node_set_network_latency(node, 3600000000000ULL), good);
    EQUAL(dqlite_node_set_network_latency(node, 3600000000001ULL), 2);
    EQUAL(dqlite_node_set_network_latency(node, ~0ULL), 2);
    EQUAL(dqlite_node_set_network_latency_ms(node, 0), 2);
    EQUAL(dqlite_node_set_network_latency_ms(node, 3600000), good);
    EQUAL(dqlite_node_set_network_latency_ms(node, 3600001), 2);
    EQUAL(dqlite_node_set_network_latency_ms(node, 10), good);

    EQUAL(dqlite_node_set_snapshot_params(node, 0, 3), 2);
    EQUAL(dqlite_node_set_snapshot_params(node, 5, 4), 2);
    EQUAL(dqlite_node_set_snapshot_params(node, 0, 4), good);
    EQUAL(dqlite_node_set_snapshot_params(node, 4, 4), good);
    EQUAL(dqlite_node_set_snapshot_params_v2(node, 1024, 8192, -1), 2);
    EQUAL(dqlite_node_set_snapshot_params_v2(node, 1024, 8192, 2), 2);
    EQUAL(dqlite_node_set_snapshot_params_v2(node, 1024, 1023, DQLITE_SNAPSHOT_TRAILING_DYNAMIC), 2);
    EQUAL(dqlite_node_set_snapshot_params_v2(node, 1024, 8192, DQLITE_SNAPSHOT_TRAILING_DYNAMIC), good);
    EQUAL(dqlite_node_set_snapshot_params_v2(node, 1024, 8192, DQLITE_SNAPSHOT_TRAILING_STATIC), good);

    EQUAL(dqlite_node_set_block_size(node, 0), state == NEW ? 1 : 2);
    EQUAL(dqlite_node_set_block_size(node, 256), state == NEW ? 1 : 2);
    EQUAL(dqlite_node_set_block_size(node, 4095), state == NEW ? 1 : 2);
    EQUAL(dqlite_node_set_block_size(node, 524288), state == NEW ? 1 : 2);
    for (size = 262144; size >= 512; size /= 2) {
        EQUAL(dqlite_node_set_block_size(node, size), good);
    }
    EQUAL(dqlite_node_set_block_size(node, 4096), good);

    EQUAL(dqlite_node_set_connect_func(node, NULL, NULL), 2);
    EQUAL(dqlite_node_set_connect_func(node, refuse, NULL), good);
    EQUAL(dqlite_node_set_bind_address(node, "@"), good);
    EQUAL(dqlite_node_enable_disk_mode(node), good);
}

static void live_settings(dqlite_node *node)
{
    EQUAL(dqlite_node_set_failure_domain(node, 0), 0);
    EQUAL(dqlite_node_set_failure_domain(node, ~0ULL), 0);
    EQUAL(dqlite_node_set_target_voters(node, -1), 0);
    EQUAL(dqlite_node_set_target_voters(node, 5), 0);
    EQUAL(dqlite_node_set_target_standbys(node, -1), 0);
    EQUAL(dqlite_node_set_target_standbys(node, 3), 0);
    EQUAL(dqlite_node_set_pool_thread_count(node, 0), 0);
    EQUAL(dqlite_node_set_pool_thread_count(node, 100000), 0);
    EQUAL(dqlite_node_set_pool_thread_count(node, 2), 0);
    EQUAL(dqlite_node_set_auto_recovery(node, false), 0);
    EQUAL(dqlite_node_set_auto_recovery(node, true), 0);
    EQUAL(dqlite_node_set_snapshot_compression(node, false), 0);
    EQUAL(dqlite_node_set_snapshot_compression(node, true), 0);
    EQUAL(dqlite_node_set_busy_timeout(node, 0), 0);
    EQUAL(dqlite_node_set_busy_timeout(node, ~0U), 0);
    EQUAL(dqlite_node_enable_role_management(node), 0);
    EQUAL(dqlite_node_enable_role_management(node), 0);
}

int main(int argc, char **argv)
{
    const char *base = test_base(argc, argv);
    dqlite_node *node = test_node(1, "1", test_dir(base, "node"));
    const char *text = dqlite_node_errmsg(node);

    fixed_settings(node, NEW);
    live_settings(node);
    CHECK(text[0] != '\0'); /* Of the last refusal. */

    OK_ON(node, dqlite_node_start(node));
    fixed_settings(node, RUNNING);
    live_settings(node);
    EQUAL(dqlite_node_stop(node), 0);

    fixed_settings(node, STOPPED);
    live_settings(node);
    CHECK(dqlite_node_errmsg(node) == text);
    dqlite_node_destroy(node);
    return 0;
}
