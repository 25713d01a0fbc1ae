/* Directories a node cannot live in, and the exact texts about them. */
#include "test.h"

static void refused(const char *dir, const char *text)
{
    dqlite_node *node = NULL;
    uint64_t index = 5, term = 6;
    dqlite_node_info info = {1, "1"};

    EQUAL(dqlite_node_create(1, "1", dir, &node), DQLITE_ERROR);
    CHECK(node != NULL);
    SAME_TEXT(dqlite_node_errmsg(node), text);

    /* There is no node behind it; only the text. */
    EQUAL(dqlite_node_set_bind_address(node, "@"), DQLITE_MISUSE);
    EQUAL(dqlite_node_set_busy_timeout(node, 1), DQLITE_MISUSE);
    EQUAL(dqlite_node_set_network_latency_ms(node, 1), DQLITE_MISUSE);
    EQUAL(dqlite_node_describe_last_entry(node, &index, &term), DQLITE_MISUSE);
    EQUAL(dqlite_node_recover(node, &info, 1), DQLITE_MISUSE);
    EQUAL(dqlite_node_start(node), DQLITE_MISUSE);
    EQUAL(dqlite_node_handover(node), DQLITE_MISUSE);
    EQUAL(dqlite_node_stop(node), DQLITE_MISUSE);
    CHECK(dqlite_node_get_bind_address(node) == NULL);
    EQUAL(index, 5);
    EQUAL(term, 6);
    SAME_TEXT(dqlite_node_errmsg(node), text);
    dqlite_node_destroy(node);
}

static void write_file(const char *path, const void *bytes, size_t len)
{
    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    CHECK(fwrite(bytes, 1, len, file) == len);
    CHECK(fclose(file) == 0);
}

/* What C says, and what can be done. */
#define REMEDY                                                                                     \
    "; its vote is lost: move metadata1 and metadata2, both, out of the directory and start "      \
    "again: a sole voter goes on, any other member is told how to be replaced"

int main(int argc, char **argv)
{
    const char *base = test_base(argc, argv);
    const char *dir;
    char path[600], text[1300], longest[1200];
    uint64_t metadata[5] = {9, 1, 1, 0, 0};
    dqlite_node *node;
    int before = test_descriptors();

    snprintf(path, sizeof path, "%s/missing", base);
    snprintf(text, sizeof text, "raft_init(): io: directory '%s' does not exist", path);
    refused(path, text);
    refused("", "raft_init(): io: directory '' does not exist");

    snprintf(path, sizeof path, "%s/file", base);
    write_file(path, "", 0);
    snprintf(text, sizeof text, "raft_init(): io: path '%s' is not a directory", path);
    refused(path, text);
    snprintf(path, sizeof path, "%s/file/below", base);
    snprintf(text, sizeof text, "raft_init(): io: path '%s' is not a directory", path);
    refused(path, text);

    /* Refused for root too. */
    dir = test_dir(base, "read-only");
    CHECK(chmod(dir, 0555) == 0);
    snprintf(text, sizeof text, "raft_init(): io: directory '%s' is not writable", dir);
    refused(dir, text);
    CHECK(chmod(dir, 0755) == 0);

    if (geteuid() != 0) {
        const char *closed = test_dir(base, "closed");
        CHECK(chmod(closed, 0000) == 0);
        snprintf(path, sizeof path, "%s/below", closed);
        snprintf(text, sizeof text, "raft_init(): io: can't access directory '%s'", path);
        refused(path, text);
        CHECK(chmod(closed, 0755) == 0);
    }

    memset(longest, 'x', sizeof longest);
    longest[895] = '\0';
    refused(longest, "raft_uv_init(): directory path too long");
    /* Short enough as a whole, with one component that is not; the text is cut at 299 bytes. */
    memcpy(longest, "/tmp/", 5);
    longest[894] = '\0';
    snprintf(text, sizeof text, "raft_init(): io: can't stat '%s': name too long", longest);
    text[299] = '\0';
    refused(longest, text);

    dir = test_dir(base, "long-metadata");
    snprintf(path, sizeof path, "%s/metadata1", dir);
    write_file(path, metadata, 40);
    refused(dir, "raft_init(): io: metadata1 has size 40 instead of 32" REMEDY);
    dir = test_dir(base, "strange-metadata");
    snprintf(path, sizeof path, "%s/metadata2", dir);
    write_file(path, metadata, 32);
    refused(dir, "raft_init(): io: decode content of metadata2: bad format version 9" REMEDY);

    /* A good directory, twice at the same time; strange files in it stay. */
    dir = test_dir(base, "good");
    snprintf(path, sizeof path, "%s/info.yaml", dir);
    write_file(path, "hello", 5);
    node = test_node(1, "1", dir);
    {
        dqlite_node *second = test_node(2, "", dir);
        SAME_TEXT(dqlite_node_errmsg(second), "");
        dqlite_node_destroy(second);
    }
    SAME_TEXT(dqlite_node_errmsg(node), "");
    EQUAL(test_threads(), 1);
    dqlite_node_destroy(node);
    EQUAL(access(path, F_OK), 0);

    EQUAL(test_descriptors(), before);
    return 0;
}
