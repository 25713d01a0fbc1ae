/* What a host's habits must not break: small limits, forked children, a connect function that blocks. Each part runs in a
 * child, which has its own limits and may be ended by a signal. */
#include "test.h"

#include <pthread.h>
#include <sys/resource.h>
#include <time.h>

static const char *base;

/* The start of a sole voter waits for space, as long as it takes: that is no signal of a write. */
static void small_files(int size);

static void in_child(void (*part)(int), int number)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(part == small_files ? 5 : 60); /* A part that hangs fails. */
        part(number);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    if (part == small_files && WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
        return;
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "part with %d ended with status %#x\n", number, status);
        exit(1);
    }
}

static void limit(int resource, rlim_t value)
{
    struct rlimit limits;
    CHECK(getrlimit(resource, &limits) == 0);
    limits.rlim_cur = value;
    CHECK(setrlimit(resource, &limits) == 0);
}

static int has_text(dqlite_node *node)
{
    return dqlite_node_errmsg(node)[0] != '\0';
}

/* It works or fails and says why; nothing in between. */
static void few_descriptors(int count)
{
    char name[32];
    dqlite_node *node = NULL;
    const char *dir, *address = "@";
    snprintf(name, sizeof name, "files%d", count);
    dir = test_dir(base, name);
    limit(RLIMIT_NOFILE, (rlim_t)count);
    if (dqlite_node_create(1, "1", dir, &node) != 0 || dqlite_node_set_network_latency_ms(node, 10) != 0 ||
        dqlite_node_set_bind_address(node, address) != 0 || dqlite_node_start(node) != 0) {
        CHECK(node != NULL && has_text(node));
        EQUAL(dqlite_node_stop(node), DQLITE_MISUSE);
        limit(RLIMIT_NOFILE, 100);
        EQUAL(test_threads(), 1);
    } else {
        EQUAL(dqlite_node_stop(node), 0);
    }
    dqlite_node_destroy(node);
}

/* A write beyond the limit sends SIGXFSZ to its thread, which by default ends the process. */
static void small_files(int size)
{
    char name[32];
    dqlite_node *node;
    dqlite_node_info self = {1, "1"};
    int started;
    snprintf(name, sizeof name, "size%d", size);
    node = test_node(1, "1", test_dir(base, name));
    OK_ON(node, dqlite_node_set_network_latency_ms(node, 10));
    OK_ON(node, dqlite_node_set_bind_address(node, test_name(name)));
    CHECK(signal(SIGXFSZ, SIG_DFL) != SIG_ERR);
    limit(RLIMIT_FSIZE, (rlim_t)size);
    CHECK(dqlite_node_recover(node, &self, 1) == 0 || has_text(node));
    started = dqlite_node_start(node);
    CHECK(started == 0 || has_text(node));
    if (started == 0) {
        usleep(300000); /* The disk thread prepares its next file. */
        EQUAL(dqlite_node_stop(node), 0);
    }
    dqlite_node_destroy(node);
}

/* A child that holds all descriptors and never looks at them. */
static void child_that_sleeps(int unused)
{
    char address[64], dir[600];
    dqlite_node *node;
    pid_t child;
    (void)unused;
    snprintf(address, sizeof address, "127.0.0.1:%d", test_free_port());
    node = test_started(1, address, test_dir(base, "forked"));
    child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    EQUAL(dqlite_node_stop(node), 0);
    dqlite_node_destroy(node);
    snprintf(dir, sizeof dir, "%s/forked", base);
    node = test_started(1, address, dir);
    EQUAL(dqlite_node_stop(node), 0);
    dqlite_node_destroy(node);
    CHECK(kill(child, SIGKILL) == 0);
    CHECK(waitpid(child, NULL, 0) == child);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int entered, may_return, other_end = -1;

static int dial(void *arg, const char *address, int *fd)
{
    int pair[2];
    sigset_t mask;
    CHECK(arg == &entered);
    SAME_TEXT(address, "far away");
    /* What it starts inherits the host's mask. */
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0 && !sigismember(&mask, SIGTERM));
    pthread_mutex_lock(&lock);
    entered = 1;
    pthread_cond_broadcast(&changed);
    while (!may_return) {
        pthread_cond_wait(&changed, &lock);
    }
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    other_end = pair[0];
    *fd = pair[1];
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return 0;
}

/* Stop returns although the function does not; when it does at last, what it writes to is there. */
static void blocking_connect(int unused)
{
    dqlite_node *node = test_node(1, "1", test_dir(base, "blocking"));
    dqlite_node_info infos[2] = {{1, "1"}, {2, "far away"}};
    struct timespec begun, ended;
    char byte;
    (void)unused;
    OK_ON(node, dqlite_node_recover(node, infos, 2));
    OK_ON(node, dqlite_node_set_network_latency_ms(node, 10));
    OK_ON(node, dqlite_node_set_bind_address(node, "@"));
    OK_ON(node, dqlite_node_set_connect_func(node, dial, &entered));
    OK_ON(node, dqlite_node_start(node));
    pthread_mutex_lock(&lock);
    while (!entered) {
        pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
    clock_gettime(CLOCK_MONOTONIC, &begun);
    EQUAL(dqlite_node_stop(node), 0);
    dqlite_node_destroy(node);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    CHECK(ended.tv_sec - begun.tv_sec < 15);
    pthread_mutex_lock(&lock);
    may_return = 1;
    pthread_cond_broadcast(&changed);
    while (other_end == -1) {
        pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
    EQUAL(test_read(other_end, &byte, 1), 0); /* Closed by the thread that was left behind. */
}

int main(int argc, char **argv)
{
    int count;
    base = test_base(argc, argv);
    for (count = 3; count <= 64; count += count < 32 ? 1 : 8) {
        in_child(few_descriptors, count);
    }
    for (count = 0; count <= 16 << 20; count = count == 0 ? 100 : count * 8) {
        in_child(small_files, count);
    }
    in_child(child_that_sleeps, 0);
    in_child(blocking_connect, 0);
    return 0;
}
