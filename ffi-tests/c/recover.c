/* A new configuration written into a directory: validation, repetition, and what the log looks like afterwards. */
#include "test.h"

static dqlite_node_info_ext member(uint64_t id, const char *address, uint64_t role)
{
    dqlite_node_info_ext info;
    memset(&info, 0, sizeof info);
    info.size = sizeof info;
    info.id = id;
    info.address = (uint64_t)(uintptr_t)address;
    info.dqlite_role = role;
    return info;
}

static uint64_t last_index(dqlite_node *node)
{
    uint64_t index = 0, term = 0;
    OK_ON(node, dqlite_node_describe_last_entry(node, &index, &term));
    CHECK(term >= 1);
    return index;
}

struct longer {
    dqlite_node_info_ext info;
    uint64_t more;
};

static void validation(dqlite_node *node)
{
    static const uint64_t bad_sizes[] = {0, 8, 24, 31, 33, 39};
    dqlite_node_info plain[2] = {{1, "1"}, {2, "2"}};
    dqlite_node_info_ext infos[2];
    struct longer longer;
    uint64_t before = last_index(node);
    size_t i;

    EQUAL(dqlite_node_recover_ext(node, NULL, 1), 2);
    EQUAL(dqlite_node_recover_ext(node, infos, 0), 2);
    EQUAL(dqlite_node_recover_ext(node, infos, -1), 2);
    EQUAL(dqlite_node_recover(node, NULL, 1), 2);
    EQUAL(dqlite_node_recover(node, plain, 0), 2);
    EQUAL(dqlite_node_recover(node, plain, -1), 3);
    plain[1].id = 1;
    EQUAL(dqlite_node_recover(node, plain, 2), 2);
    plain[1].id = 2;
    plain[1].address = "1";
    EQUAL(dqlite_node_recover(node, plain, 2), 2);
    plain[1].address = NULL;
    EQUAL(dqlite_node_recover(node, plain, 2), 2);

    for (i = 0; i < sizeof bad_sizes / sizeof bad_sizes[0]; i++) {
        infos[0] = member(1, "1", 0);
        infos[0].size = bad_sizes[i];
        EQUAL(dqlite_node_recover_ext(node, infos, 1), 2);
    }
    longer.info = member(1, "1", 0);
    longer.info.size = sizeof longer;
    longer.more = 1;
    EQUAL(dqlite_node_recover_ext(node, &longer.info, 1), 2);

    infos[0] = member(1, "1", 0);
    infos[1] = member(0, "2", 0);
    EQUAL(dqlite_node_recover_ext(node, infos, 2), 2);
    infos[1] = member(1, "2", 0);
    EQUAL(dqlite_node_recover_ext(node, infos, 2), 2);
    infos[1] = member(2, "1", 0);
    EQUAL(dqlite_node_recover_ext(node, infos, 2), 2);
    infos[1] = member(2, "2", 3);
    EQUAL(dqlite_node_recover_ext(node, infos, 2), 2);
    infos[1] = member(2, NULL, 0);
    EQUAL(dqlite_node_recover_ext(node, infos, 2), 2);

    EQUAL(last_index(node), before);
    longer.more = 0;
    OK_ON(node, dqlite_node_recover_ext(node, &longer.info, 1));
    EQUAL(last_index(node), before + 1);
    infos[1] = member(2, "2", 2);
    OK_ON(node, dqlite_node_recover_ext(node, infos, 2));
    EQUAL(last_index(node), before + 2);
    OK_ON(node, dqlite_node_recover(node, &plain[0], 1));
    EQUAL(last_index(node), before + 3);
}

int main(int argc, char **argv)
{
    const char *base = test_base(argc, argv);
    const char *dir = test_dir(base, "node");
    dqlite_node_info self = {1, test_name("recover")};
    uint64_t index;
    dqlite_node *node;
    int before = test_descriptors(), fd;

    node = test_started(1, test_name("recover"), dir);
    EQUAL(dqlite_node_recover(node, &self, 1), 1);
    fd = test_connect_abstract(test_name("recover"));
    CHECK(fd >= 0);
    test_open(fd);
    EQUAL(test_exec(fd, "CREATE TABLE t (x)"), 6);
    EQUAL(test_exec(fd, "INSERT INTO t VALUES (1)"), 6);
    close(fd);
    EQUAL(dqlite_node_stop(node), 0);
    EQUAL(dqlite_node_recover(node, &self, 1), 2);
    dqlite_node_destroy(node);

    /* As go-dqlite does it: a throw-away node with another id and no socket, never started. */
    node = test_node(1, "1", dir);
    index = last_index(node);
    CHECK(index >= 3);
    validation(node);
    OK_ON(node, dqlite_node_recover(node, &self, 1));
    EQUAL(last_index(node), index + 4);
    dqlite_node_destroy(node);

    /* The data is still there, and the node leads the cluster it was given. */
    node = test_started(1, test_name("recover"), dir);
    fd = test_connect_abstract(test_name("recover"));
    CHECK(fd >= 0);
    test_open(fd);
    EQUAL(test_exec(fd, "INSERT INTO t VALUES (2)"), 6);
    EQUAL(test_exec(fd, "CREATE TABLE t (x)"), 0);
    close(fd);
    EQUAL(dqlite_node_stop(node), 0);
    dqlite_node_destroy(node);

    /* A recovered object may be started itself. */
    node = test_node(1, test_name("recover"), dir);
    OK_ON(node, dqlite_node_recover(node, &self, 1));
    OK_ON(node, dqlite_node_set_bind_address(node, test_name("recover")));
    OK_ON(node, dqlite_node_start(node));
    EQUAL(dqlite_node_stop(node), 0);
    dqlite_node_destroy(node);

    EQUAL(test_descriptors(), before);
    return 0;
}
