/* A node in a process of its own, on whichever libdqlite is named: ours or C's.
 *
 *   node LIBRARY ID ADDRESS BIND DIR [option]...
 *
 *   latency=MS         dqlite_node_set_network_latency_ms
 *   snapshot=N,M       threshold and trailing entries
 *   compression=0|1    dqlite_node_set_snapshot_compression
 *   busy=MS            dqlite_node_set_busy_timeout
 *   last-entry         prints "LAST index term" before the start
 *   recover            makes this node the only voter, before the start
 *   exit               ends here, without a start
 *
 * Prints READY once the node runs, stops it at the end of standard input, exits with 0 if all went well. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct dqlite_node dqlite_node;
struct info_ext {
    uint64_t size, id, address, role;
};

static void *library;
static dqlite_node *node;
static const char *(*errmsg)(dqlite_node *);
static void (*destroy)(dqlite_node *);

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("node: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static void find(void *function, const char *name)
{
    void *symbol = dlsym(library, name);
    if (symbol == NULL) {
        fail("the library lacks %s", name);
    }
    memcpy(function, &symbol, sizeof symbol);
}

static void check(const char *name, int result)
{
    if (result != 0) {
        fail("%s returned %d: %s", name, result, node == NULL ? "" : errmsg(node));
    }
}

static void set_unsigned(const char *name, const char *value)
{
    int (*setter)(dqlite_node *, unsigned);
    find(&setter, name);
    check(name, setter(node, (unsigned)strtoul(value, NULL, 10)));
}

static void set_bool(const char *name, const char *value)
{
    int (*setter)(dqlite_node *, bool);
    find(&setter, name);
    check(name, setter(node, strcmp(value, "0") != 0));
}

static void set_snapshot(const char *value)
{
    int (*setter)(dqlite_node *, unsigned, unsigned);
    unsigned threshold, trailing;
    if (sscanf(value, "%u,%u", &threshold, &trailing) != 2) {
        fail("snapshot=%s is not snapshot=N,M", value);
    }
    find(&setter, "dqlite_node_set_snapshot_params");
    check("dqlite_node_set_snapshot_params", setter(node, threshold, trailing));
}

static void print_last_entry(void)
{
    int (*describe)(dqlite_node *, uint64_t *, uint64_t *);
    uint64_t index, term;
    find(&describe, "dqlite_node_describe_last_entry");
    check("dqlite_node_describe_last_entry", describe(node, &index, &term));
    printf("LAST %llu %llu\n", (unsigned long long)index, (unsigned long long)term);
}

static void recover(uint64_t id, const char *address)
{
    int (*function)(dqlite_node *, struct info_ext *, int);
    struct info_ext self = {sizeof self, id, (uint64_t)(uintptr_t)address, 0};
    find(&function, "dqlite_node_recover_ext");
    check("dqlite_node_recover_ext", function(node, &self, 1));
}

static const char *value_of(const char *option, const char *name)
{
    size_t len = strlen(name);
    return strncmp(option, name, len) == 0 && option[len] == '=' ? option + len + 1 : NULL;
}

static void apply(const char *option, uint64_t id, const char *address)
{
    const char *value;
    if ((value = value_of(option, "latency")) != NULL) {
        set_unsigned("dqlite_node_set_network_latency_ms", value);
    } else if ((value = value_of(option, "snapshot")) != NULL) {
        set_snapshot(value);
    } else if ((value = value_of(option, "compression")) != NULL) {
        set_bool("dqlite_node_set_snapshot_compression", value);
    } else if ((value = value_of(option, "busy")) != NULL) {
        set_unsigned("dqlite_node_set_busy_timeout", value);
    } else if (strcmp(option, "last-entry") == 0) {
        print_last_entry();
    } else if (strcmp(option, "recover") == 0) {
        recover(id, address);
    } else if (strcmp(option, "exit") == 0) {
        destroy(node);
        exit(0);
    } else {
        fail("unknown option %s", option);
    }
}

int main(int argc, char **argv)
{
    int (*create)(unsigned long long, const char *, const char *, dqlite_node **);
    int (*set_bind_address)(dqlite_node *, const char *);
    int (*start)(dqlite_node *), (*stop)(dqlite_node *);
    unsigned long long id;
    char byte;

    if (argc < 6) {
        fail("usage: node LIBRARY ID ADDRESS BIND DIR [option]...");
    }
    signal(SIGPIPE, SIG_IGN);
    library = dlopen(argv[1], RTLD_NOW);
    if (library == NULL) {
        fail("%s", dlerror());
    }
    find(&create, "dqlite_node_create");
    find(&set_bind_address, "dqlite_node_set_bind_address");
    find(&start, "dqlite_node_start");
    find(&stop, "dqlite_node_stop");
    find(&destroy, "dqlite_node_destroy");
    find(&errmsg, "dqlite_node_errmsg");

    id = strtoull(argv[2], NULL, 10);
    check("dqlite_node_create", create(id, argv[3], argv[5], &node));
    for (int i = 6; i < argc; i++) {
        apply(argv[i], id, argv[3]);
    }
    check("dqlite_node_set_bind_address", set_bind_address(node, argv[4]));
    check("dqlite_node_start", start(node));
    puts("READY");
    fflush(stdout);

    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    check("dqlite_node_stop", stop(node));
    destroy(node);
    return 0;
}
