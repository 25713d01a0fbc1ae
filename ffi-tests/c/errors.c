/* Every function that fails on a node leaves a text: all of them, each in every way that a program can provoke. Before
 * each call the text is replaced by that of another failure, so that an old one cannot pass for a new one. */
#include "test.h"

static int failures;

#define FAILS(node, call, code)                                                                        \
    do {                                                                                               \
        char before_[300], after_[300];                                                                \
        CHECK(dqlite_node_start(NULL) == DQLITE_MISUSE);                                               \
        strcpy(before_, other_failure(node));                                                          \
        EQUAL(call, code);                                                                             \
        strcpy(after_, dqlite_node_errmsg(node));                                                      \
        if (after_[0] == '\0' || strcmp(before_, after_) == 0) {                                       \
            fprintf(stderr, "%s:%d: %s left \"%s\"\n", __FILE__, __LINE__, #call, after_);             \
            exit(1);                                                                                   \
        }                                                                                              \
        failures++;                                                                                    \
    } while (0)

/* A failure whose text nothing else has. */
static const char *other_failure(dqlite_node *node)
{
    CHECK(dqlite_node_recover(node, NULL, -1) == DQLITE_NOMEM);
    return dqlite_node_errmsg(node);
}

static int dial(void *arg, const char *address, int *fd)
{
    (void)arg;
    (void)address;
    (void)fd;
    return 1;
}

static void settings_fail(dqlite_node *node)
{
    FAILS(node, dqlite_node_set_bind_address(node, "@late"), DQLITE_MISUSE);
    FAILS(node, dqlite_node_set_connect_func(node, dial, NULL), DQLITE_MISUSE);
    FAILS(node, dqlite_node_set_network_latency(node, 10000000), DQLITE_MISUSE);
    FAILS(node, dqlite_node_set_network_latency_ms(node, 10), DQLITE_MISUSE);
    FAILS(node, dqlite_node_set_snapshot_params(node, 10, 10), DQLITE_MISUSE);
    FAILS(node, dqlite_node_set_snapshot_params_v2(node, 10, 10, 1), DQLITE_MISUSE);
    FAILS(node, dqlite_node_set_block_size(node, 4096), DQLITE_MISUSE);
    FAILS(node, dqlite_node_enable_disk_mode(node), DQLITE_MISUSE);
}

static void wrong_members(dqlite_node *node)
{
    dqlite_node_info twice[2] = {{1, "1"}, {1, "2"}}, zero = {0, "1"}, nameless = {1, NULL};
    dqlite_node_info_ext good = {sizeof good, 1, (uint64_t)(uintptr_t)"1", 0}, bad;
    FAILS(node, dqlite_node_recover(node, NULL, 1), DQLITE_MISUSE);
    FAILS(node, dqlite_node_recover(node, twice, 0), DQLITE_MISUSE);
    FAILS(node, dqlite_node_recover(node, twice, 2), DQLITE_MISUSE);
    FAILS(node, dqlite_node_recover(node, &zero, 1), DQLITE_MISUSE);
    FAILS(node, dqlite_node_recover(node, &nameless, 1), DQLITE_MISUSE);
    FAILS(node, dqlite_node_recover_ext(node, NULL, 1), DQLITE_MISUSE);
    FAILS(node, dqlite_node_recover_ext(node, &good, 0), DQLITE_MISUSE);
    bad = good;
    bad.size = 7;
    FAILS(node, dqlite_node_recover_ext(node, &bad, 1), DQLITE_MISUSE);
    bad = good;
    bad.dqlite_role = 3;
    FAILS(node, dqlite_node_recover_ext(node, &bad, 1), DQLITE_MISUSE);
    bad = good;
    bad.address = 0;
    FAILS(node, dqlite_node_recover_ext(node, &bad, 1), DQLITE_MISUSE);
}

static void not_created(const char *address, const char *dir)
{
    dqlite_node *node = NULL;
    char text[300];
    dqlite_node_info self = {1, "1"};
    uint64_t index, term;
    EQUAL(dqlite_node_create(1, address, dir, &node), DQLITE_ERROR);
    CHECK(node != NULL);
    strcpy(text, dqlite_node_errmsg(node));
    CHECK(text[0] != '\0');
    /* Nothing else works, and the reason stays. */
#define STAYS(call)                                      \
    do {                                                 \
        EQUAL(call, DQLITE_MISUSE);                      \
        SAME_TEXT(dqlite_node_errmsg(node), text);       \
        failures++;                                      \
    } while (0)
    STAYS(dqlite_node_start(node));
    STAYS(dqlite_node_stop(node));
    STAYS(dqlite_node_handover(node));
    STAYS(dqlite_node_recover(node, &self, 1));
    STAYS(dqlite_node_describe_last_entry(node, &index, &term));
    STAYS(dqlite_node_set_bind_address(node, "@"));
    STAYS(dqlite_node_set_connect_func(node, dial, NULL));
    STAYS(dqlite_node_set_network_latency_ms(node, 10));
    STAYS(dqlite_node_set_network_latency(node, 10000000));
    STAYS(dqlite_node_set_snapshot_params(node, 10, 10));
    STAYS(dqlite_node_set_snapshot_params_v2(node, 10, 10, 0));
    STAYS(dqlite_node_set_block_size(node, 4096));
    STAYS(dqlite_node_enable_disk_mode(node));
    STAYS(dqlite_node_set_failure_domain(node, 1));
    STAYS(dqlite_node_set_target_voters(node, 3));
    STAYS(dqlite_node_set_target_standbys(node, 1));
    STAYS(dqlite_node_set_pool_thread_count(node, 1));
    STAYS(dqlite_node_set_auto_recovery(node, true));
    STAYS(dqlite_node_set_snapshot_compression(node, true));
    STAYS(dqlite_node_set_busy_timeout(node, 1));
    STAYS(dqlite_node_enable_role_management(node));
    dqlite_node_destroy(node);
}

int main(int argc, char **argv)
{
    const char *base = test_base(argc, argv);
    const char *dir = test_dir(base, "node"), *broken = test_dir(base, "broken");
    const char *address = test_name("errors");
    dqlite_node_info self = {1, "1"};
    dqlite_node_info_ext self_ext = {sizeof self_ext, 1, (uint64_t)(uintptr_t)"1", 0};
    dqlite_node *node, *second;
    uint64_t index, term;
    char path[600];
    int fd;

    CHECK(dqlite_node_errmsg(NULL)[0] != '\0');
    not_created("1", "/no/such/directory");
    not_created("\xff", dir);

    node = test_node(1, "1", dir);
    FAILS(node, dqlite_node_start(node), DQLITE_MISUSE); /* No bind address. */
    FAILS(node, dqlite_node_stop(node), DQLITE_MISUSE);
    FAILS(node, dqlite_node_handover(node), DQLITE_MISUSE);
    FAILS(node, dqlite_node_describe_last_entry(node, NULL, &term), DQLITE_MISUSE);
    FAILS(node, dqlite_node_describe_last_entry(node, &index, NULL), DQLITE_MISUSE);
    FAILS(node, dqlite_node_set_bind_address(node, NULL), DQLITE_MISUSE);
    FAILS(node, dqlite_node_set_bind_address(node, "nonsense"), DQLITE_ERROR);
    FAILS(node, dqlite_node_set_bind_address(node, "127.0.0.1:65536"), DQLITE_ERROR);
    FAILS(node, dqlite_node_set_bind_address(node, "1.2.3.4:1"), DQLITE_ERROR);
    FAILS(node, dqlite_node_set_bind_address(node, "\xff"), DQLITE_ERROR);
    FAILS(node, dqlite_node_set_connect_func(node, NULL, NULL), DQLITE_MISUSE);
    FAILS(node, dqlite_node_set_network_latency(node, 1), DQLITE_MISUSE);
    FAILS(node, dqlite_node_set_network_latency_ms(node, 0), DQLITE_MISUSE);
    FAILS(node, dqlite_node_set_network_latency_ms(node, 3600001), DQLITE_MISUSE);
    FAILS(node, dqlite_node_set_snapshot_params(node, 10, 3), DQLITE_MISUSE);
    FAILS(node, dqlite_node_set_snapshot_params_v2(node, 10, 10, 7), DQLITE_MISUSE);
    FAILS(node, dqlite_node_set_block_size(node, 7), DQLITE_ERROR);
    wrong_members(node);

    OK_ON(node, dqlite_node_set_network_latency_ms(node, 10));
    OK_ON(node, dqlite_node_set_bind_address(node, address));
    OK_ON(node, dqlite_node_start(node));
    FAILS(node, dqlite_node_start(node), DQLITE_ERROR);
    FAILS(node, dqlite_node_handover(node), DQLITE_ERROR); /* To nobody. */
    FAILS(node, dqlite_node_describe_last_entry(node, &index, &term), DQLITE_MISUSE);
    FAILS(node, dqlite_node_recover(node, &self, 1), DQLITE_ERROR);
    FAILS(node, dqlite_node_recover_ext(node, &self_ext, 1), DQLITE_ERROR);
    settings_fail(node);

    /* A directory and an address in use. */
    second = test_node(1, "1", dir);
    FAILS(second, dqlite_node_set_bind_address(second, address), DQLITE_ERROR);
    FAILS(second, dqlite_node_recover(second, &self, 1), DQLITE_ERROR);
    OK_ON(second, dqlite_node_set_bind_address(second, "@"));
    FAILS(second, dqlite_node_start(second), DQLITE_ERROR);
    dqlite_node_destroy(second);

    EQUAL(dqlite_node_stop(node), 0);
    FAILS(node, dqlite_node_stop(node), DQLITE_MISUSE);
    FAILS(node, dqlite_node_start(node), DQLITE_MISUSE);
    FAILS(node, dqlite_node_handover(node), DQLITE_MISUSE);
    FAILS(node, dqlite_node_recover(node, &self, 1), DQLITE_MISUSE);
    FAILS(node, dqlite_node_recover_ext(node, &self_ext, 1), DQLITE_MISUSE);
    settings_fail(node);
    dqlite_node_destroy(node);

    node = test_node(0, "1", test_dir(base, "zero"));
    OK_ON(node, dqlite_node_set_bind_address(node, "@"));
    FAILS(node, dqlite_node_start(node), DQLITE_MISUSE);
    dqlite_node_destroy(node);

    /* A directory that cannot be loaded. */
    node = test_node(2, "1", broken);
    OK_ON(node, dqlite_node_set_bind_address(node, "@"));
    OK_ON(node, dqlite_node_set_auto_recovery(node, false));
    snprintf(path, sizeof path, "%s/0000000000000001-0000000000000002", broken);
    fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, "damaged!", 8) == 8 && close(fd) == 0);
    FAILS(node, dqlite_node_describe_last_entry(node, &index, &term), DQLITE_ERROR);
    FAILS(node, dqlite_node_recover(node, &self, 1), DQLITE_ERROR);
    FAILS(node, dqlite_node_start(node), DQLITE_ERROR);
    dqlite_node_destroy(node);

    CHECK(failures > 100);
    return 0;
}
