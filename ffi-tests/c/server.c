/* dqlite_server_*: every function in every state, the two files, two servers that find each other. */
#include "test.h"

#include <pthread.h>
#include <time.h>

#define BOOTSTRAP_ID 0x2dc171858c3155beULL

static int dials;
static char cookie;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int dial(void *arg, const char *address, int *fd)
{
    int connected;
    CHECK(arg == &cookie);
    pthread_mutex_lock(&lock);
    dials++;
    pthread_mutex_unlock(&lock);
    connected = test_connect_abstract(address);
    if (connected < 0) {
        return 16;
    }
    *fd = connected;
    return 0;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void put(const char *dir, const char *name, const char *text)
{
    char path[600];
    FILE *file;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    file = fopen(path, "we");
    CHECK(file != NULL);
    CHECK(fputs(text, file) >= 0);
    EQUAL(fclose(file), 0);
}

static const char *get(const char *dir, const char *name)
{
    static char text[4096];
    char path[600];
    size_t len;
    FILE *file;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    file = fopen(path, "re");
    CHECK(file != NULL);
    len = fread(text, 1, sizeof text - 1, file);
    text[len] = '\0';
    fclose(file);
    return text;
}

static dqlite_server *made(const char *dir, const char *address)
{
    dqlite_server *server = NULL;
    EQUAL(dqlite_server_create(dir, &server), 0);
    EQUAL(dqlite_server_set_connect_func(server, dial, &cookie), 0);
    EQUAL(dqlite_server_set_address(server, address), 0);
    return server;
}

static void stop(dqlite_server *server)
{
    double begun = now();
    EQUAL(dqlite_server_stop(server), 0);
    CHECK(now() - begun < 10); /* A second or two, but for a busy machine; C takes 30. */
}

/* What cannot be started says so at once and can be started later. */
static void refusals(const char *base)
{
    const char *dir = test_dir(base, "refused"), *address = test_name("refused");
    const char *nobody[] = {"@dqlite-nobody-is-here"};
    const char *damaged[] = {"v1\nx\n1", "v2\nx\n1\n", "v1\nx\none\n", "v1\nx\n1\n\n", "v1\nx\n0\n"};
    dqlite_server *server = NULL, *other;
    unsigned i;

    EQUAL(dqlite_server_create(NULL, &server), DQLITE_MISUSE);
    EQUAL(dqlite_server_create(dir, NULL), DQLITE_MISUSE);
    EQUAL(dqlite_server_start(NULL), DQLITE_MISUSE);
    EQUAL(dqlite_server_stop(NULL), DQLITE_MISUSE);
    EQUAL(dqlite_server_handover(NULL), DQLITE_MISUSE);
    EQUAL(dqlite_server_get_id(NULL), 0);
    dqlite_server_destroy(NULL);

    EQUAL(dqlite_server_create(dir, &server), 0);
    EQUAL(dqlite_server_stop(server), 1);
    EQUAL(dqlite_server_handover(server), 1);
    EQUAL(dqlite_server_get_id(server), 0);
    EQUAL(dqlite_server_start(server), 1); /* No address. */
    EQUAL(dqlite_server_set_address(server, address), 0);
    EQUAL(dqlite_server_set_address(server, NULL), DQLITE_MISUSE);
    EQUAL(dqlite_server_start(server), 1); /* Neither bootstrap nor join. */
    EQUAL(dqlite_server_set_auto_bootstrap(server, true), 0);

    /* A second one that shall do both. */
    EQUAL(dqlite_server_create(dir, &other), 0);
    EQUAL(dqlite_server_set_address(other, address), 0);
    EQUAL(dqlite_server_set_auto_bootstrap(other, true), 0);
    EQUAL(dqlite_server_set_auto_join(other, NULL, 1), DQLITE_MISUSE);
    EQUAL(dqlite_server_set_auto_join(other, nobody, 1), 0);
    EQUAL(dqlite_server_start(other), 1);
    EQUAL(dqlite_server_get_id(other), 0);
    dqlite_server_destroy(other);

    for (i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        put(dir, "server-info", damaged[i]);
        EQUAL(dqlite_server_start(server), 1);
    }
    put(dir, "server-info", "");
    put(dir, "node-store", "v1\nx\n1\nvoter\n");
    EQUAL(dqlite_server_start(server), 1); /* Members, but nobody who this is. */
    put(dir, "node-store", "");

    /* A bind address that cannot be. */
    EQUAL(dqlite_server_set_bind_address(server, "no address"), 0);
    EQUAL(dqlite_server_set_bind_address(server, NULL), DQLITE_MISUSE);
    EQUAL(dqlite_server_start(server), 1);
    EQUAL(dqlite_server_set_bind_address(server, address), 0);
    EQUAL(dqlite_server_start(server), 0);
    EQUAL(dqlite_server_get_id(server), BOOTSTRAP_ID);
    EQUAL(dqlite_server_start(server), 1); /* Twice. */
    EQUAL(dqlite_server_handover(server), 1); /* To nobody. */
    stop(server);
    EQUAL(dqlite_server_stop(server), 1);
    EQUAL(dqlite_server_handover(server), 1);
    EQUAL(dqlite_server_get_id(server), BOOTSTRAP_ID);

    /* The first start that failed has spoilt nothing, nor has a lost node-store. */
    put(dir, "node-store", "");
    EQUAL(dqlite_server_start(server), 0);
    /* Destroyed while it runs. */
    dqlite_server_destroy(server);
}

struct job {
    dqlite_server *server;
    int result;
};

static void *run(void *argument)
{
    struct job *job = argument;
    job->result = dqlite_server_start(job->server);
    return NULL;
}

/* At the same time: each of them waits for the others. */
static void start_together(dqlite_server *const *servers, int count)
{
    struct job jobs[4];
    pthread_t threads[4];
    int i;
    for (i = 0; i < count; i++) {
        jobs[i].server = servers[i];
        EQUAL(pthread_create(&threads[i], NULL, run, &jobs[i]), 0);
    }
    for (i = 0; i < count; i++) {
        EQUAL(pthread_join(threads[i], NULL), 0);
        EQUAL(jobs[i].result, 0);
    }
}

static void write_through(const char *address)
{
    int fd = test_connect_abstract(address);
    CHECK(fd >= 0);
    test_open(fd);
    EQUAL(test_exec(fd, "CREATE TABLE IF NOT EXISTS t (n)"), 6);
    EQUAL(test_exec(fd, "INSERT INTO t VALUES (1)"), 6);
    close(fd);
}

static void two_find_each_other(const char *base)
{
    const char *dirs[] = {test_dir(base, "first"), test_dir(base, "second")};
    const char *addresses[] = {test_name("first"), test_name("second")};
    /* The one that joins stands first. */
    dqlite_server *servers[] = {made(dirs[1], addresses[1]), made(dirs[0], addresses[0])};
    char expected[512];
    dqlite_node_id id;

    EQUAL(dqlite_server_set_auto_join(servers[0], addresses, 2), 0);
    EQUAL(dqlite_server_set_auto_bootstrap(servers[1], true), 0);
    start_together(servers, 2);
    id = dqlite_server_get_id(servers[0]);
    CHECK(id != 0 && id != BOOTSTRAP_ID);
    CHECK(dials > 0);
    snprintf(expected, sizeof expected, "v1\n%s\n%llu\n", addresses[0], (unsigned long long)BOOTSTRAP_ID);
    SAME_TEXT(get(dirs[0], "server-info"), expected);
    snprintf(expected, sizeof expected, "v1\n%s\n%llu\n", addresses[1], (unsigned long long)id);
    SAME_TEXT(get(dirs[1], "server-info"), expected);
    snprintf(expected, sizeof expected, "v1\n%s\n%llu\nvoter\n%s\n%llu\nspare\n", addresses[0],
             (unsigned long long)BOOTSTRAP_ID, addresses[1], (unsigned long long)id);
    SAME_TEXT(get(dirs[1], "node-store"), expected);
    write_through(addresses[0]);

    /* Both stop, and start again with the same objects; the settings stay. */
    stop(servers[0]);
    stop(servers[1]);
    EQUAL(dqlite_server_get_id(servers[0]), id);
    start_together(servers, 2);
    EQUAL(dqlite_server_get_id(servers[0]), id);
    write_through(addresses[0]);

    /* Leadership and vote move to the spare. */
    EQUAL(dqlite_server_handover(servers[1]), 0);
    stop(servers[1]);
    write_through(addresses[1]);
    EQUAL(dqlite_server_start(servers[1]), 0);
    EQUAL(dqlite_server_handover(servers[1]), 0); /* It has nothing left. */
    stop(servers[0]);
    stop(servers[1]);
    dqlite_server_destroy(servers[0]);
    dqlite_server_destroy(servers[1]);
}

int main(int argc, char **argv)
{
    const char *base = test_base(argc, argv);
    int descriptors = test_descriptors();
    alarm(300); /* Elections take their time, under valgrind above all. */
    refusals(base);
    two_find_each_other(base);
    EQUAL(test_threads(), 1);
    CHECK(test_descriptors() <= descriptors);
    return 0;
}
