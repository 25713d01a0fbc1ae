/* The C interface of dqlite: SQLite, replicated over a cluster by Raft.
 *
 * Functions that return int return DQLITE_OK (0), or DQLITE_ERROR, DQLITE_MISUSE or DQLITE_NOMEM. A NULL pointer where
 * an object or a text is needed gives DQLITE_MISUSE. Texts are NUL-terminated UTF-8; those given to dqlite are copied.
 * The library never changes signal handling, never exits or aborts the process, and starts threads only in
 * dqlite_node_start() and dqlite_server_start().
 *
 * Generated from crates/ffi; do not edit.
 */

#ifndef DQLITE_H
#define DQLITE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Marks what the library exports. Define it before including this file to replace it. */
#ifndef DQLITE_API
#if defined(__GNUC__) || defined(__clang__)
#define DQLITE_API __attribute__((visibility("default")))
#else
#define DQLITE_API
#endif
#endif

/* Marks what may change without notice. */
#ifndef DQLITE_EXPERIMENTAL
#define DQLITE_EXPERIMENTAL
#endif

/* Marks what only tests of the library use. */
#ifndef DQLITE_VISIBLE_TO_TESTS
#define DQLITE_VISIBLE_TO_TESTS DQLITE_API
#endif

/* Extended SQLite codes that clients see when they must look for another leader: the statement was not executed, */
#ifndef SQLITE_IOERR_NOT_LEADER
#define SQLITE_IOERR_NOT_LEADER (SQLITE_IOERR | (40 << 8))
#endif
/* or nobody can tell whether it was. */
#ifndef SQLITE_IOERR_LEADERSHIP_LOST
#define SQLITE_IOERR_LEADERSHIP_LOST (SQLITE_IOERR | (41 << 8))
#endif

/* What functions return. */
enum {
    DQLITE_OK = 0,     /* Success. */
    DQLITE_ERROR = 1,  /* The operation failed; see dqlite_node_errmsg() where a function says so. */
    DQLITE_MISUSE = 2, /* A wrong argument, or the wrong moment. */
    DQLITE_NOMEM = 3   /* Out of memory. */
};

/* Strategies of dqlite_node_set_snapshot_params_v2(). */
enum { DQLITE_SNAPSHOT_TRAILING_STATIC = 0, DQLITE_SNAPSHOT_TRAILING_DYNAMIC = 1 };

/* Size of the first form of dqlite_node_info_ext. */
#define DQLITE_NODE_INFO_EXT_SZ_ORIG 32U

/* Version of the library at run time, as text: the version of the interface, '@', and what identifies the build. */
#ifdef __cplusplus
extern "C" DQLITE_API const char *dqlite_version_string;
#else
DQLITE_API extern const char *dqlite_version_string;
#endif

/**
 * Major version of the interface.
 */
#define DQLITE_VERSION_MAJOR 1

/**
 * Minor version of the interface.
 */
#define DQLITE_VERSION_MINOR 18

/**
 * Release of the interface.
 */
#define DQLITE_VERSION_RELEASE 6

/**
 * The three in one number.
 */
#define DQLITE_VERSION_NUMBER ((((DQLITE_VERSION_MAJOR * 100) * 100) + (DQLITE_VERSION_MINOR * 100)) + DQLITE_VERSION_RELEASE)

/**
 * A dqlite node: one member of a cluster, with its data directory, its socket and its threads.
 *
 * Functions on the same node may be called from several threads, except dqlite_node_destroy(); a call may wait for
 * another one that is still running. Different nodes have nothing in common.
 */
typedef struct dqlite_node dqlite_node;

/**
 * A node that bootstraps or joins its cluster by itself and remembers its members.
 *
 * Its directory holds the node's data and two files: server-info with its address and id, and node-store with the
 * members of its cluster, which is refreshed every 30 seconds. C dqlite reads and writes the same files.
 *
 * Experimental. Functions on the same server may be called from several threads, except dqlite_server_destroy(); a call
 * may wait for another one that is still running.
 */
typedef struct dqlite_server dqlite_server;

/**
 * Identity of a node: unique in its cluster for ever, never 0, never given to another node.
 */
typedef unsigned long long dqlite_node_id;

/**
 * Makes a connection to another node; see dqlite_node_set_connect_func().
 *
 * "address" is what the cluster has recorded for the node, and is lent for the duration of the call. Blocks until the
 * connection stands, then stores its descriptor in "fd" and returns 0; any other value means failure, and "fd" is not
 * looked at.
 *
 * The descriptor must be a connected stream socket in blocking mode: TCP, Unix, or one end of a socketpair. dqlite
 * owns it from then on and closes it. Set close-on-exec on it.
 *
 * Called on threads of dqlite, several at a time, also for the node's own address. Nobody can end a call, so
 * dqlite_node_stop() waits one second for those that are still running and leaves longer ones behind: until they return,
 * the function, its argument and the library must stay, even if the node is destroyed. What such a call returns is closed.
 * The calling thread has the signal mask of the one that set the function.
 */
typedef int (*dqlite_connect_func)(void *arg, const char *address, int *fd);

/**
 * A node as dqlite_node_recover() takes it: always a voter.
 */
typedef struct dqlite_node_info {
    /**
     * Identity of the node.
     */
    dqlite_node_id id;
    /**
     * Its address as the cluster knows it.
     */
    const char *address;
} dqlite_node_info;

/**
 * A node as dqlite_node_recover_ext() takes it.
 *
 * Set "size" to DQLITE_NODE_INFO_EXT_SZ_ORIG, or to the size of a longer, future form of this struct whose further
 * members are all zero.
 */
typedef struct dqlite_node_info_ext {
    /**
     * Size of this struct in bytes, a multiple of 8.
     */
    uint64_t size;
    /**
     * Identity of the node.
     */
    uint64_t id;
    /**
     * Its address: a pointer to a string, stored as an integer.
     */
    uint64_t address;
    /**
     * Its role: 0 voter, 1 stand-by, 2 spare.
     */
    uint64_t dqlite_role;
} dqlite_node_info_ext;

/**
 * Bytes with a length. No function uses it; it is there for programs that name it.
 */
typedef struct dqlite_buffer {
    /**
     * First byte.
     */
    void *base;
    /**
     * Number of bytes.
     */
    size_t len;
} dqlite_buffer;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Version of the library at run time, to compare with the DQLITE_VERSION_NUMBER a program was compiled with.
 */
DQLITE_API int dqlite_version_number(void);

/**
 * Makes an id for a new node from its address and the clock.
 *
 * Every call gives another id. Never 0, unless "address" is NULL. Safe to call from any thread.
 */
DQLITE_API dqlite_node_id dqlite_generate_node_id(const char *address);

/**
 * Creates a node.
 *
 * "id" must be unique in the cluster and is never used again for another node. Only a node with id 1 or
 * 0x2dc171858c3155be (go-dqlite's) starts a new cluster when its directory is empty; others wait to be added to one.
 *
 * "address" is how other nodes and clients reach it. "data_dir" must exist and be writable; the log, snapshots and a
 * lock file live there, other files in it are left alone. Both texts are copied.
 *
 * Nothing runs and no port is taken yet: continue with dqlite_node_set_bind_address() and dqlite_node_start().
 *
 * Returns 0 and stores the node in "n". On DQLITE_ERROR a handle is stored as well, good for dqlite_node_errmsg() and
 * dqlite_node_destroy() only. On DQLITE_MISUSE (a NULL argument) NULL is stored, if "n" is not NULL itself. Whatever
 * was stored must be given to dqlite_node_destroy().
 */
DQLITE_API
int dqlite_node_create(dqlite_node_id id,
                       const char *address,
                       const char *data_dir,
                       struct dqlite_node **n);

/**
 * Frees a node and everything it holds: memory, descriptors, its address. NULL is allowed.
 *
 * Stop the node first; one that still runs is stopped here. No other call on the node may be running, and neither the
 * node nor texts that came from it may be used afterwards.
 */
DQLITE_API
void dqlite_node_destroy(struct dqlite_node *n);

/**
 * Starts the node: loads its directory, listens on the bind address, and takes part in the cluster.
 *
 * Blocks until everything on disk is loaded and connections are served. If the node is the only voter of its cluster
 * it leads by then; otherwise clients find the leader by asking.
 *
 * If the environment variable LIBDQLITE_TRACE is set, the library reports on stderr from here on: a number from 1
 * (everything) to 5 is the lowest level.
 *
 * Returns DQLITE_ERROR with a text for dqlite_node_errmsg() when the directory is locked by a running node (this one
 * included), cannot be loaded, or when the address is taken; destroy the node then. Returns DQLITE_MISUSE when no bind
 * address was set, when the id is 0, or when the node was started before and stopped: make a new one.
 */
DQLITE_API
int dqlite_node_start(struct dqlite_node *n);

/**
 * Prepares the planned stop of a node: passes its leadership on to the voter that has most of the log, and its vote to
 * a member that has none and answers. The node becomes a spare and keeps running; stop it next.
 *
 * Blocks until that is done, or until it is certain that it cannot be: at most two election timeouts (50 seconds at
 * most) and 10 seconds, 16 seconds with default settings. dqlite_node_stop() ends it early. A node that has neither
 * leadership nor a vote has nothing to pass on, and the call returns at once.
 *
 * Returns DQLITE_ERROR with a text for dqlite_node_errmsg() when something had to stay: there is no other node, or all
 * others are voters already (leadership has moved then, if any of them answers), or too few of them answer. The node
 * can be stopped in any case. Returns DQLITE_MISUSE when the node is not running.
 */
DQLITE_API
int dqlite_node_handover(struct dqlite_node *n);

/**
 * Stops the node: closes all connections without an answer, writes down what is under way, ends its threads.
 *
 * Blocks until all of that is done. A call of a host's connect function is waited for one second; one that takes longer
 * goes on behind the stop, see dqlite_connect_func. Returns DQLITE_MISUSE when the node is not running, also to the later of two callers. A stopped node can only be asked for
 * its texts and be destroyed.
 */
DQLITE_API
int dqlite_node_stop(struct dqlite_node *n);

/**
 * Index and term of the last entry in the log of a node that is not running, 0 and 0 for an empty directory.
 *
 * Of several nodes that lost their cluster, the one with the highest term, then the highest index, is the one to call
 * dqlite_node_recover_ext() on. Changes nothing in the directory. Blocks while it reads the log.
 *
 * Returns DQLITE_ERROR when the directory cannot be read, DQLITE_MISUSE when the node is running or a pointer is NULL;
 * nothing is stored then.
 */
DQLITE_API
int dqlite_node_describe_last_entry(struct dqlite_node *n,
                                    uint64_t *last_entry_index,
                                    uint64_t *last_entry_term);

/**
 * What went wrong last, as text of at most 299 bytes; empty if nothing did.
 *
 * Every function that fails on a node leaves a text there; success does not clear it. The pointer is the same until
 * dqlite_node_destroy(), the text behind it changes with the next failure: copy it, and not while another thread uses
 * the node. For NULL a text says so.
 */
DQLITE_API
const char *dqlite_node_errmsg(struct dqlite_node *n);

/**
 * Takes the address the node will listen on: "IPv4", "IPv4:port", "IPv6", "[IPv6]:port" or "@name". Without a port
 * 8080 is meant. Names of hosts are not looked up.
 *
 * "@name" is an abstract Unix socket that only this process may connect to; for "@" alone the system chooses a name,
 * which dqlite_node_get_bind_address() returns.
 *
 * The socket is made and bound at once, and listens from dqlite_node_start() on. Call it before starting; a second
 * call replaces the first if it succeeds. The text is copied.
 *
 * Returns DQLITE_ERROR when the address is malformed, taken or not of this machine, DQLITE_MISUSE when the node was
 * started or "address" is NULL.
 */
DQLITE_API
int dqlite_node_set_bind_address(struct dqlite_node *n,
                                 const char *address);

/**
 * The address the node is bound to, or NULL. An IP address is the text that was set (a port 0 stays 0), an abstract
 * one is the name in use.
 *
 * The text belongs to the node and stays as it is until dqlite_node_destroy() or the next successful
 * dqlite_node_set_bind_address().
 */
DQLITE_API
const char *dqlite_node_get_bind_address(struct dqlite_node *n);

/**
 * Lets the host make the connections to other nodes, with TLS for example. See dqlite_connect_func for what "f" must
 * do. Without it, dqlite connects over TCP to "address:port" (8080 if no port is named) and waits at most 5 seconds.
 *
 * "arg" is given to every call; it and "f" must stay usable until the node is destroyed, and until every call has
 * returned: one that takes longer than a second goes on behind dqlite_node_stop().
 *
 * Returns DQLITE_MISUSE when the node was started or "f" is NULL.
 */
DQLITE_API
int dqlite_node_set_connect_func(struct dqlite_node *n,
                                 dqlite_connect_func f,
                                 void *arg);

/**
 * As dqlite_node_set_network_latency_ms(), in nanoseconds; fractions of a millisecond are dropped, and less than one
 * is refused.
 */
DQLITE_API
int dqlite_node_set_network_latency(struct dqlite_node *n,
                                    unsigned long long nanoseconds);

/**
 * Tells how long a message between two nodes takes at worst. Elections start after 15 times as long (and a random
 * part), heartbeats are sent at a tenth of that. Unless set, the two are 3000 and 500 milliseconds.
 *
 * Use the same value on all nodes. Returns DQLITE_MISUSE for 0, for more than an hour, and when the node was started.
 */
DQLITE_API
int dqlite_node_set_network_latency_ms(struct dqlite_node *n,
                                       unsigned int milliseconds);

/**
 * Tells where the node stands, a rack or a zone for example, as a number of the host's choice. Clients and other nodes
 * can ask for it when they distribute roles. Default 0; may be changed at any time.
 */
DQLITE_API
int dqlite_node_set_failure_domain(struct dqlite_node *n,
                                   unsigned long long code);

/**
 * As dqlite_node_set_snapshot_params_v2() with DQLITE_SNAPSHOT_TRAILING_STATIC.
 */
DQLITE_API
int dqlite_node_set_snapshot_params(struct dqlite_node *n,
                                    unsigned int snapshot_threshold,
                                    unsigned int snapshot_trailing);

/**
 * Tells when to take snapshots and how much of the log to keep behind them.
 *
 * A snapshot is taken when "snapshot_threshold" entries (default 1024) were applied since the last one; then
 * "snapshot_trailing" entries (default 8192) stay in the log, so that nodes that were away for a while need no
 * snapshot. With DQLITE_SNAPSHOT_TRAILING_DYNAMIC fewer stay if a snapshot is smaller than they are.
 *
 * Unless this is called, a snapshot also waits until the log since the last one is as large as the databases, at most
 * 1 GiB.
 *
 * Returns DQLITE_MISUSE when trailing is less than 4 or less than the threshold, for other strategies, and when the
 * node was started.
 */
DQLITE_API
int dqlite_node_set_snapshot_params_v2(struct dqlite_node *n,
                                       unsigned int snapshot_threshold,
                                       unsigned int snapshot_trailing,
                                       int trailing_strategy);

/**
 * Sets the size of the blocks in which the log is written: a power of two from 512 to 262144 bytes. Unless set, it is
 * what the file system of the data directory suggests.
 *
 * Returns DQLITE_ERROR for other sizes, DQLITE_MISUSE when the node was started.
 */
DQLITE_API
int dqlite_node_set_block_size(struct dqlite_node *n,
                               size_t size);

/**
 * Tells how many voters role management aims at; default 3. May be changed at any time.
 */
DQLITE_API int dqlite_node_set_target_voters(struct dqlite_node *n, int voters);

/**
 * Tells how many stand-bys role management aims at; default 0. May be changed at any time.
 */
DQLITE_API int dqlite_node_set_target_standbys(struct dqlite_node *n, int standbys);

/**
 * Tells how many threads read from databases at the same time; default 4. Used by the next dqlite_node_start(), within
 * reasonable bounds.
 */
DQLITE_API
int dqlite_node_set_pool_thread_count(struct dqlite_node *n,
                                      unsigned int thread_count);

/**
 * Tells whether damaged files may be moved aside when the directory is loaded (the default), so that the node can
 * catch up from others. If not, loading fails and the files stay where they are. Used by the next start or recovery.
 */
DQLITE_API
int dqlite_node_set_auto_recovery(struct dqlite_node *n,
                                  bool enabled);

/**
 * Tells whether snapshots are compressed on disk (the default). Either kind can always be read. May be changed at any
 * time.
 */
DQLITE_API
int dqlite_node_set_snapshot_compression(struct dqlite_node *n,
                                         bool enabled);

/**
 * Tells how long a write waits, in milliseconds, while another connection writes to the same database, before it fails
 * with SQLITE_BUSY. 0 does not wait at all. Unless set it waits 5000 milliseconds. May be changed at any time.
 */
DQLITE_API
int dqlite_node_set_busy_timeout(struct dqlite_node *n,
                                 unsigned int msecs);

/**
 * Lets this node, whenever it leads, give the members the roles that the targets for voters and stand-bys call for.
 * Enable it on all nodes, with the same targets. Off by default; may be enabled at any time and stays so.
 *
 * Roles are looked at once a second. A member that was not heard from for 5 seconds (or an election timeout, if that is
 * longer) is offline: a stand-by, or else a spare, takes the place of an offline voter, preferably one from a failure
 * domain with few voters and of small weight. An offline voter that nobody can replace keeps its vote unless three
 * others answer. The leader never changes its own role, and no change is made that the voters answering could not
 * survive. A role that a client has assigned is left alone for 30 seconds.
 */
DQLITE_API
int dqlite_node_enable_role_management(struct dqlite_node *n);

/**
 * Asks for the disk mode of dqlite 1.13 to 1.18.2, for programs of that time.
 *
 * Accepted without effect: databases stay in memory, and the log and snapshots on disk as always. Returns
 * DQLITE_MISUSE when the node was started.
 */
DQLITE_API int dqlite_node_enable_disk_mode(struct dqlite_node *n);

/**
 * As dqlite_node_recover_ext(), with every node a voter. A negative "n_info" gives DQLITE_NOMEM.
 */
DQLITE_API int dqlite_node_recover(struct dqlite_node *n, struct dqlite_node_info *infos, int n_info);

/**
 * Gives a cluster that has lost its majority for ever a new list of members.
 *
 * Stop all nodes; find the one with the most recent log with dqlite_node_describe_last_entry(); call this on it, not
 * started, with the members the cluster shall have; then replace the data directories of all other members by copies
 * of its directory, and start them. Nodes that are not in the list must never be started again.
 *
 * What is replaced is copied to files of the directory before, named backup-N-..., which nobody reads or removes.
 *
 * Array elements stand 32 bytes apart. Texts are copied. The node is not started, and any number of recoveries may
 * follow one another. The members must fit into one block of the log, about 160 of them.
 *
 * Returns DQLITE_MISUSE, and changes nothing, when the array is NULL or empty, when an element has a wrong size, role,
 * id or address, when an id or address occurs twice, or when the node was stopped. Returns DQLITE_ERROR when the
 * directory is in use by a running node or cannot be read or written; dqlite_node_errmsg() says why. Damaged entries
 * and a full disk are such reasons; the directory is then as it was.
 */
DQLITE_API
int dqlite_node_recover_ext(struct dqlite_node *n,
                            struct dqlite_node_info_ext *infos,
                            int n_info);

/**
 * Creates a server whose data lives in the directory "path". The text is copied, the directory not looked at yet.
 * Give the server to dqlite_server_destroy() in the end.
 */
DQLITE_API DQLITE_EXPERIMENTAL
int dqlite_server_create(const char *path,
                         struct dqlite_server **server);

/**
 * Sets the address by which others reach the server, a name or a literal. Copied; ignored when the directory already
 * names one. Set the bind address as well if this one is no literal.
 */
DQLITE_API DQLITE_EXPERIMENTAL
int dqlite_server_set_address(struct dqlite_server *server,
                              const char *address);

/**
 * Tells whether a server that is new starts a cluster of its own. One server of a cluster does; default off.
 */
DQLITE_API DQLITE_EXPERIMENTAL int dqlite_server_set_auto_bootstrap(struct dqlite_server *server, bool on);

/**
 * Adds "n" addresses of servers through which a server that is new joins their cluster; its own may be among them.
 * Copied; ignored when the directory already knows servers.
 */
DQLITE_API DQLITE_EXPERIMENTAL
int dqlite_server_set_auto_join(struct dqlite_server *server,
                                const char *const *addrs,
                                unsigned int n);

/**
 * Sets the address to listen on, if it is not the one others use; see dqlite_node_set_bind_address(). Copied.
 */
DQLITE_API DQLITE_EXPERIMENTAL
int dqlite_server_set_bind_address(struct dqlite_server *server,
                                   const char *addr);

/**
 * Lets the host make the connections to other servers; see dqlite_connect_func. It is called on threads of dqlite and on
 * the one that calls dqlite_server_start(). Without it, dqlite connects over TCP, by name too, in at most 5 seconds.
 */
DQLITE_API DQLITE_EXPERIMENTAL
int dqlite_server_set_connect_func(struct dqlite_server *server,
                                   dqlite_connect_func f,
                                   void *arg);

/**
 * Starts the server: its node, and its membership. A server that is new either bootstraps a cluster or joins one, as a
 * spare; one that is not goes on with what its directory holds.
 *
 * Blocks until the server is a member and knows the leader. For up to 30 seconds it tries all servers it knows again
 * and again, so servers may be started in any order, but at the same time: each waits for the others.
 *
 * Returns DQLITE_ERROR when the server runs already, when it shall both bootstrap and join or, being new, neither, when
 * no address was set, when a file is damaged, for all reasons dqlite_node_start() has, and when the time is over.
 * LIBDQLITE_TRACE shows the reason. The start can be repeated then.
 */
DQLITE_API DQLITE_EXPERIMENTAL
int dqlite_server_start(struct dqlite_server *server);

/**
 * The id of the server's node; 0 before it has one, and for NULL. It stays when the server is stopped.
 */
DQLITE_API DQLITE_EXPERIMENTAL dqlite_node_id dqlite_server_get_id(struct dqlite_server *server);

/**
 * Prepares the planned stop of a running server; see dqlite_node_handover(). Returns DQLITE_ERROR when something had to
 * stay, and when the server is not running.
 */
DQLITE_API DQLITE_EXPERIMENTAL
int dqlite_server_handover(struct dqlite_server *server);

/**
 * Stops a running server. It can be started again. Takes a second or two at most; see dqlite_connect_func for calls
 * that take longer. Returns DQLITE_ERROR when the server is not running.
 */
DQLITE_API DQLITE_EXPERIMENTAL
int dqlite_server_stop(struct dqlite_server *server);

/**
 * Frees a server; one that still runs is stopped first. NULL is allowed. No other call on it may be running.
 */
DQLITE_API DQLITE_EXPERIMENTAL void dqlite_server_destroy(struct dqlite_server *server);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DQLITE_H */
