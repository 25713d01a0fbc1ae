/* What set_bind_address accepts, refuses, and gives back. Nothing listens before start. */
#include "test.h"

struct vector {
    const char *address;
    int result;
};

/* Ports are fixed where the text under test fixes them; a machine may have such a port in use, so only those are here
 * that are unlikely, and 8080 is tried once before. */
static const struct vector vectors[] = {
    {"@dqlite-c-test-x", 0},
    {"@dqlite c test with spaces", 0},
    {"127.0.0.1:0", 0},
    {"127.0.0.1:", 0},
    {"127.0.0.1:+0", 0},
    {"127.0.0.1:00", 0},
    {"[127.0.0.1]:0", 0},
    {"127.1:0", 0},
    {"0.0.0.0:0", 0},
    {"127.0.0.1:65536", 1},
    {"127.0.0.1:http", 1},
    {"127.0.0.1:-1", 1},
    {"127.0.0.1:0x50", 1},
    {"127.0.0.1:9112 ", 1},
    {" 127.0.0.1:9113", 1},
    {"localhost", 1},
    {"localhost:9101", 1},
    {"local.host:80", 1},
    {"[::1]", 1},
    {"[::1", 1},
    {"[]:9103", 1},
    {"::1:9105", 1},
    {"", 1},
    {"1", 1},
    {":9106", 1},
    {"::ffff:127.0.0.1", 1},
    {"1.2.3.4:9110", 1},
    {"\xff\xfe", 1},
};

static const struct vector default_port[] = {{"127.0.0.1", 0}, {"2130706433", 0}};
static const struct vector ipv6[] = {{"[::1]:0", 0}, {"[::1]:", 0}, {"[::]:0", 0}};
static const struct vector ipv6_default_port[] = {{"::1", 0}, {"::", 0}};

static void run(const char *dir, const struct vector *list, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++) {
        dqlite_node *node = test_node(1, "1", dir);
        int result = dqlite_node_set_bind_address(node, list[i].address);
        if (result != list[i].result) {
            fprintf(stderr, "\"%s\": %d, not %d\n", list[i].address, result, list[i].result);
            exit(1);
        }
        CHECK((dqlite_node_errmsg(node)[0] == '\0') == (result == 0));
        if (result == 0) {
            SAME_TEXT(dqlite_node_get_bind_address(node), list[i].address);
        } else {
            CHECK(dqlite_node_get_bind_address(node) == NULL);
        }
        dqlite_node_destroy(node);
    }
}

static int has_ipv6(void)
{
    struct sockaddr_in6 address;
    int fd = socket(AF_INET6, SOCK_STREAM, 0), result;
    memset(&address, 0, sizeof address);
    address.sin6_family = AF_INET6;
    address.sin6_addr = in6addr_loopback;
    result = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    close(fd);
    return result;
}

static int port_8080_is_free(void)
{
    struct sockaddr_in address;
    int on = 1, result, fd = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(8080);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    result = bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    close(fd);
    return result;
}

#define RUN(dir, list) run(dir, list, sizeof list / sizeof list[0])

int main(int argc, char **argv)
{
    const char *base = test_base(argc, argv);
    const char *dir = test_dir(base, "node");
    char name[128], first[64];
    const char *kept;
    dqlite_node *node, *other;
    int port = test_free_port();

    RUN(dir, vectors);
    if (port_8080_is_free()) {
        RUN(dir, default_port);
    }
    if (has_ipv6()) {
        RUN(dir, ipv6);
        if (port_8080_is_free()) {
            RUN(dir, ipv6_default_port);
        }
    }

    /* 106 bytes of name are the most. */
    memset(name, 'n', sizeof name);
    name[0] = '@';
    name[107] = '\0';
    node = test_node(1, "1", dir);
    EQUAL(dqlite_node_set_bind_address(node, name), 0);
    SAME_TEXT(dqlite_node_get_bind_address(node), name);
    name[107] = 'n';
    name[108] = '\0';
    EQUAL(dqlite_node_set_bind_address(node, name), 1);
    dqlite_node_destroy(node);

    /* The kernel chooses a name; a failed call leaves it in force, a good one replaces it. */
    node = test_node(1, "1", dir);
    CHECK(dqlite_node_get_bind_address(node) == NULL);
    EQUAL(dqlite_node_set_bind_address(node, "@"), 0);
    kept = dqlite_node_get_bind_address(node);
    CHECK(kept[0] == '@' && strlen(kept) == 6);
    EQUAL(dqlite_node_set_bind_address(node, "nonsense"), 1);
    EQUAL(dqlite_node_set_bind_address(node, NULL), 2);
    CHECK(dqlite_node_get_bind_address(node) == kept);
    strcpy(first, kept);
    other = test_node(2, "2", dir);
    EQUAL(dqlite_node_set_bind_address(other, first), 1);
    snprintf(name, sizeof name, "127.0.0.1:%d", port);
    EQUAL(dqlite_node_set_bind_address(node, name), 0);
    SAME_TEXT(dqlite_node_get_bind_address(node), name);
    CHECK(test_connect_tcp(port) == -1 && errno == ECONNREFUSED);
    EQUAL(dqlite_node_set_bind_address(other, first), 0);
    dqlite_node_destroy(node);

    /* A node that was never started frees its address. */
    node = test_node(1, "1", dir);
    EQUAL(dqlite_node_set_bind_address(node, first), 1);
    dqlite_node_destroy(other);
    EQUAL(dqlite_node_set_bind_address(node, first), 0);
    dqlite_node_destroy(node);
    return 0;
}
