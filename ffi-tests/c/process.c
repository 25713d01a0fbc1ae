/* A node as a guest in its process: signals stay as they are, forks before use are harmless, other processes cannot
 * use its abstract socket, and vanishing clients raise nothing. */
#include "test.h"

static void signals_are_as_before(struct sigaction *before, sigset_t *mask, int compare)
{
    int number;
    for (number = 1; number < 32; number++) {
        struct sigaction now;
        CHECK(sigaction(number, NULL, &now) == 0);
        if (compare) {
            CHECK(now.sa_handler == before[number].sa_handler && now.sa_flags == before[number].sa_flags);
        } else {
            before[number] = now;
        }
    }
    if (compare) {
        sigset_t now;
        CHECK(sigprocmask(SIG_SETMASK, NULL, &now) == 0);
        for (number = 1; number < 32; number++) {
            EQUAL(sigismember(&now, number), sigismember(mask, number));
        }
    } else {
        CHECK(sigprocmask(SIG_SETMASK, NULL, mask) == 0);
    }
}

static void child_result(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    EQUAL(WEXITSTATUS(status), 0);
}

static void use(const char *dir, const char *address)
{
    dqlite_node *node = test_started(1, address, dir);
    int fd = test_connect_abstract(address);
    CHECK(fd >= 0);
    test_open(fd);
    EQUAL(test_exec(fd, "CREATE TABLE t (x)"), 6);
    close(fd);
    EQUAL(dqlite_node_stop(node), 0);
    dqlite_node_destroy(node);
}

int main(int argc, char **argv)
{
    const char *base = test_base(argc, argv);
    struct sigaction actions[32];
    sigset_t mask;
    dqlite_node *node;
    pid_t child;
    int i, fd, ready[2];
    char byte;

    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    signals_are_as_before(actions, &mask, 0);

    /* Loaded and asked a little, then forked: both sides can use it. */
    CHECK(dqlite_version_number() == 11806);
    CHECK(dqlite_generate_node_id("1") != 0);
    child = fork();
    if (child == 0) {
        use(test_dir(base, "child"), test_name("child"));
        _exit(0);
    }
    use(test_dir(base, "parent"), test_name("parent"));
    child_result(child);

    /* Another process is shown the door without a byte. */
    CHECK(pipe2(ready, O_CLOEXEC) == 0);
    child = fork();
    if (child == 0) {
        close(ready[1]);
        CHECK(read(ready[0], &byte, 1) == 1);
        fd = test_connect_abstract(test_name("guest"));
        CHECK(fd >= 0);
        EQUAL(test_read(fd, &byte, 1), 0);
        _exit(0);
    }
    close(ready[0]);
    node = test_started(1, test_name("guest"), test_dir(base, "guest"));
    CHECK(write(ready[1], "x", 1) == 1);
    close(ready[1]);
    child_result(child);

    /* Clients that leave in the middle of an answer. */
    for (i = 0; i < 20; i++) {
        static const char sql[] = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c";
        uint64_t query[2 + sizeof sql / 8 + 1];
        memset(query, 0, sizeof query);
        query[0] = test_header(sizeof query / 8 - 1, 9);
        memcpy(query + 2, sql, sizeof sql);
        fd = test_connect_abstract(test_name("guest"));
        CHECK(fd >= 0);
        test_open(fd);
        test_send(fd, query, sizeof query / 8);
        CHECK(test_read(fd, query, 8) == 8);
        close(fd);
    }
    fd = test_connect_abstract(test_name("guest"));
    CHECK(fd >= 0);
    test_open(fd);
    EQUAL(test_exec(fd, "CREATE TABLE t (x)"), 6);
    signals_are_as_before(actions, &mask, 1);

    /* An open connection sees the end of the file when the node stops. */
    EQUAL(dqlite_node_stop(node), 0);
    EQUAL(test_read(fd, &byte, 1), 0);
    close(fd);
    dqlite_node_destroy(node);
    signals_are_as_before(actions, &mask, 1);
    return 0;
}
