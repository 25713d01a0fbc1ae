/* The header against the ABI: sizes, offsets, constants, and the exact type of every function. Strict C99, C11, C++. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <dqlite.h>

#define ASSERT(name, condition) typedef char name[(condition) ? 1 : -1] __attribute__((unused))

ASSERT(id_is_64_bits, sizeof(dqlite_node_id) == 8);
ASSERT(info_size, sizeof(dqlite_node_info) == 16 && sizeof(struct dqlite_node_info) == 16);
ASSERT(info_id, offsetof(dqlite_node_info, id) == 0);
ASSERT(info_address, offsetof(dqlite_node_info, address) == 8);
ASSERT(ext_size, sizeof(dqlite_node_info_ext) == 32 && sizeof(struct dqlite_node_info_ext) == 32);
ASSERT(ext_first, offsetof(dqlite_node_info_ext, size) == 0);
ASSERT(ext_id, offsetof(dqlite_node_info_ext, id) == 8);
ASSERT(ext_address, offsetof(dqlite_node_info_ext, address) == 16);
ASSERT(ext_role, offsetof(dqlite_node_info_ext, dqlite_role) == 24);
ASSERT(ext_original, DQLITE_NODE_INFO_EXT_SZ_ORIG == 32U && sizeof(DQLITE_NODE_INFO_EXT_SZ_ORIG) == 4);
ASSERT(buffer_size, sizeof(struct dqlite_buffer) == 16 && offsetof(struct dqlite_buffer, len) == 8);
ASSERT(connect_size, sizeof(dqlite_connect_func) == 8);
ASSERT(bool_size, sizeof(bool) == 1);
ASSERT(codes, DQLITE_OK == 0 && DQLITE_ERROR == 1 && DQLITE_MISUSE == 2 && DQLITE_NOMEM == 3);
ASSERT(trailing, DQLITE_SNAPSHOT_TRAILING_STATIC == 0 && DQLITE_SNAPSHOT_TRAILING_DYNAMIC == 1);
ASSERT(not_leader, SQLITE_IOERR_NOT_LEADER == 10250);
ASSERT(leadership_lost, SQLITE_IOERR_LEADERSHIP_LOST == 10506);

#if DQLITE_VERSION_MAJOR != 1 || DQLITE_VERSION_MINOR != 18 || DQLITE_VERSION_RELEASE != 6
#error "version"
#endif
#if DQLITE_VERSION_NUMBER != 11806
#error "version number"
#endif
#if !defined(DQLITE_API) || !defined(DQLITE_EXPERIMENTAL) || !defined(DQLITE_VISIBLE_TO_TESTS)
#error "macros"
#endif

DQLITE_VISIBLE_TO_TESTS int visible_to_tests(void);
DQLITE_VISIBLE_TO_TESTS int visible_to_tests(void)
{
    return 0;
}

static int refuse(void *arg, const char *address, int *fd)
{
    (void)arg;
    (void)address;
    (void)fd;
    return 16;
}

/* A pointer of another type would not compile. */
static int (*version_number)(void) = dqlite_version_number;
static dqlite_node_id (*generate_node_id)(const char *) = dqlite_generate_node_id;
static int (*create)(dqlite_node_id, const char *, const char *, dqlite_node **) = dqlite_node_create;
static void (*destroy)(dqlite_node *) = dqlite_node_destroy;
static int (*set_bind_address)(dqlite_node *, const char *) = dqlite_node_set_bind_address;
static const char *(*get_bind_address)(dqlite_node *) = dqlite_node_get_bind_address;
static int (*set_connect_func)(dqlite_node *, int (*)(void *, const char *, int *), void *) = dqlite_node_set_connect_func;
static int (*set_network_latency)(dqlite_node *, unsigned long long) = dqlite_node_set_network_latency;
static int (*set_network_latency_ms)(dqlite_node *, unsigned) = dqlite_node_set_network_latency_ms;
static int (*set_failure_domain)(dqlite_node *, unsigned long long) = dqlite_node_set_failure_domain;
static int (*set_snapshot_params)(dqlite_node *, unsigned, unsigned) = dqlite_node_set_snapshot_params;
static int (*set_snapshot_params_v2)(dqlite_node *, unsigned, unsigned, int) = dqlite_node_set_snapshot_params_v2;
static int (*set_block_size)(dqlite_node *, size_t) = dqlite_node_set_block_size;
static int (*set_auto_recovery)(dqlite_node *, bool) = dqlite_node_set_auto_recovery;
static int (*set_snapshot_compression)(dqlite_node *, bool) = dqlite_node_set_snapshot_compression;
static int (*set_pool_thread_count)(dqlite_node *, unsigned) = dqlite_node_set_pool_thread_count;
static int (*set_busy_timeout)(dqlite_node *, unsigned) = dqlite_node_set_busy_timeout;
static int (*recover)(dqlite_node *, dqlite_node_info[], int) = dqlite_node_recover;
static int (*recover_ext)(dqlite_node *, dqlite_node_info_ext[], int) = dqlite_node_recover_ext;
static int (*describe)(dqlite_node *, uint64_t *, uint64_t *) = dqlite_node_describe_last_entry;
static const char *(*errmsg)(dqlite_node *) = dqlite_node_errmsg;
static int (*simple[])(dqlite_node *) = {dqlite_node_start, dqlite_node_stop, dqlite_node_handover,
                                         dqlite_node_enable_role_management, dqlite_node_enable_disk_mode};
static int (*numbers[])(dqlite_node *, int) = {dqlite_node_set_target_voters, dqlite_node_set_target_standbys};
static int (*server_create)(const char *, dqlite_server **) = dqlite_server_create;
static int (*server_texts[])(dqlite_server *, const char *) = {dqlite_server_set_address, dqlite_server_set_bind_address};
static int (*server_set_auto_bootstrap)(dqlite_server *, bool) = dqlite_server_set_auto_bootstrap;
static int (*server_set_auto_join)(dqlite_server *, const char *const *, unsigned) = dqlite_server_set_auto_join;
static int (*server_set_connect_func)(dqlite_server *, dqlite_connect_func, void *) = dqlite_server_set_connect_func;
static dqlite_node_id (*server_get_id)(dqlite_server *) = dqlite_server_get_id;
static int (*server_simple[])(dqlite_server *) = {dqlite_server_start, dqlite_server_handover, dqlite_server_stop};
static void (*server_destroy)(dqlite_server *) = dqlite_server_destroy;

/* Read before main by the loader: the symbol is data. */
static const char **version_string = &dqlite_version_string;

static int failures;

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "line %d: not so: %s\n", __LINE__, #condition); \
            failures++;                                                     \
        }                                                                   \
    } while (0)

/* NULL where an object or a text is needed is misuse, never a crash. */
static void nulls(void)
{
    dqlite_node *node = (dqlite_node *)&failures;
    dqlite_server *server = (dqlite_server *)&failures;
    dqlite_node_info info = {1, "1"};
    dqlite_node_info_ext ext = {32, 1, 0, 0};
    const char *const none[] = {NULL};
    uint64_t index = 5, term = 6;
    size_t i;

    CHECK(create(1, NULL, ".", &node) == DQLITE_MISUSE && node == NULL);
    node = (dqlite_node *)&failures;
    CHECK(create(1, "1", NULL, &node) == DQLITE_MISUSE && node == NULL);
    CHECK(create(1, "1", ".", NULL) == DQLITE_MISUSE);
    destroy(NULL);
    CHECK(strcmp(errmsg(NULL), "node is NULL") == 0);
    CHECK(get_bind_address(NULL) == NULL);
    CHECK(set_bind_address(NULL, "@") == DQLITE_MISUSE);
    CHECK(set_connect_func(NULL, refuse, NULL) == DQLITE_MISUSE);
    CHECK(set_network_latency(NULL, 1000000) == DQLITE_MISUSE);
    CHECK(set_network_latency_ms(NULL, 1) == DQLITE_MISUSE);
    CHECK(set_failure_domain(NULL, 1) == DQLITE_MISUSE);
    CHECK(set_snapshot_params(NULL, 1, 4) == DQLITE_MISUSE);
    CHECK(set_snapshot_params_v2(NULL, 1, 4, 0) == DQLITE_MISUSE);
    CHECK(set_block_size(NULL, 4096) == DQLITE_MISUSE);
    CHECK(set_auto_recovery(NULL, true) == DQLITE_MISUSE);
    CHECK(set_snapshot_compression(NULL, true) == DQLITE_MISUSE);
    CHECK(set_pool_thread_count(NULL, 1) == DQLITE_MISUSE);
    CHECK(set_busy_timeout(NULL, 1) == DQLITE_MISUSE);
    CHECK(recover(NULL, &info, 1) == DQLITE_MISUSE);
    CHECK(recover_ext(NULL, &ext, 1) == DQLITE_MISUSE);
    CHECK(describe(NULL, &index, &term) == DQLITE_MISUSE && index == 5 && term == 6);
    for (i = 0; i < sizeof simple / sizeof simple[0]; i++) {
        CHECK(simple[i](NULL) == DQLITE_MISUSE);
    }
    for (i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        CHECK(numbers[i](NULL, 1) == DQLITE_MISUSE);
    }
    CHECK(generate_node_id(NULL) == 0);

    CHECK(server_create(NULL, &server) == DQLITE_MISUSE && server == NULL);
    CHECK(server_create(".", NULL) == DQLITE_MISUSE);
    server_destroy(NULL);
    CHECK(server_get_id(NULL) == 0);
    CHECK(server_set_auto_bootstrap(NULL, true) != 0);
    CHECK(server_set_auto_join(NULL, none, 0) != 0);
    CHECK(server_set_connect_func(NULL, refuse, NULL) != 0);
    for (i = 0; i < sizeof server_texts / sizeof server_texts[0]; i++) {
        CHECK(server_texts[i](NULL, "1") != 0);
    }
    for (i = 0; i < sizeof server_simple / sizeof server_simple[0]; i++) {
        CHECK(server_simple[i](NULL) != 0);
    }
}

/* A server can be made and configured; nothing about it can run yet, and that is what it says. */
static void servers(void)
{
    const char *const addresses[] = {"127.0.0.1:9001", "127.0.0.1:9002"};
    const char *const broken[] = {"127.0.0.1:9001", NULL};
    dqlite_server *server = NULL;
    size_t i;

    CHECK(server_create("/nowhere", &server) == 0);
    CHECK(server != NULL);
    CHECK(dqlite_server_set_address(server, "127.0.0.1:9000") == 0);
    CHECK(dqlite_server_set_address(server, NULL) != 0);
    CHECK(dqlite_server_set_bind_address(server, "127.0.0.1:9000") == 0);
    CHECK(dqlite_server_set_bind_address(server, NULL) != 0);
    CHECK(server_set_auto_bootstrap(server, true) == 0);
    CHECK(server_set_auto_join(server, addresses, 2) == 0);
    CHECK(server_set_auto_join(server, NULL, 0) == 0);
    CHECK(server_set_auto_join(server, NULL, 1) != 0);
    CHECK(server_set_auto_join(server, broken, 2) != 0);
    CHECK(server_set_connect_func(server, refuse, NULL) == 0);
    CHECK(server_set_connect_func(server, NULL, NULL) != 0);
    for (i = 0; i < sizeof server_simple / sizeof server_simple[0]; i++) {
        CHECK(server_simple[i](server) == DQLITE_ERROR);
    }
    CHECK(server_get_id(server) == 0);
    server_destroy(server);
}

int main(void)
{
    CHECK(version_number() == DQLITE_VERSION_NUMBER);
    CHECK(*version_string == dqlite_version_string);
    CHECK(strncmp(dqlite_version_string, "1.18.6@", 7) == 0);
    CHECK(generate_node_id("1") != 0);
    CHECK(generate_node_id("1") != generate_node_id("1"));
    nulls();
    servers();
    return failures == 0 ? 0 : 1;
}
