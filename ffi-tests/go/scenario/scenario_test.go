// Package scenario is what an application does with go-dqlite, from the first node to the recovery from its last.
//
// Written for v3; run.sh puts the path of the major version it tests in place of /v3.
package scenario

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	dqlite "github.com/canonical/go-dqlite/v3"
	"github.com/canonical/go-dqlite/v3/app"
	"github.com/canonical/go-dqlite/v3/client"
	"github.com/canonical/go-dqlite/v3/driver"
)

const (
	database = "app.db"
	patience = 60 * time.Second
)

// Addresses below the ports that connections get: a node can always be started again.
func address(node int) string {
	return fmt.Sprintf("127.77.%d.%d:9200", os.Getpid()%250, node)
}

type cluster struct {
	*testing.T
	ctx  context.Context
	dir  string
	apps map[int]*app.App
	db   *sql.DB
}

func (c *cluster) ok(err error, what string) {
	c.Helper()
	if err != nil {
		c.Fatalf("%s: %v", what, err)
	}
}

// eventually repeats until there is no error. What it repeats has to be harmless when done twice.
func (c *cluster) eventually(what string, attempt func() error) {
	c.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := attempt()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("%s: after %v: %v", what, patience, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *cluster) nodeDir(node int) string {
	return filepath.Join(c.dir, fmt.Sprintf("n%d", node))
}

func (c *cluster) start(node int) {
	c.Helper()
	c.ok(os.MkdirAll(c.nodeDir(node), 0o755), "mkdir")
	options := []app.Option{
		app.WithAddress(address(node)),
		app.WithNetworkLatency(5 * time.Millisecond),
		app.WithRolesAdjustmentFrequency(200 * time.Millisecond),
	}
	if node > 1 {
		options = append(options, app.WithCluster([]string{address(1), address(2), address(3)}))
	}
	started, err := app.New(c.nodeDir(node), options...)
	c.ok(err, fmt.Sprintf("start node %d", node))
	c.apps[node] = started
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	c.ok(started.Ready(ctx), fmt.Sprintf("node %d ready", node))
}

func (c *cluster) stop(node int) {
	c.Helper()
	c.ok(c.apps[node].Close(), fmt.Sprintf("close node %d", node))
	delete(c.apps, node)
}

func (c *cluster) open(node int) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	db, err := c.apps[node].Open(ctx, database)
	c.ok(err, "open")
	c.db = db
}

// leader is a client of the leader and the number of that node.
func (c *cluster) leader() (*client.Client, int) {
	c.Helper()
	var leader *client.Client
	found := 0
	c.eventually("find the leader", func() error {
		for _, some := range c.apps {
			ctx, cancel := context.WithTimeout(c.ctx, 5*time.Second)
			defer cancel()
			cli, err := some.Leader(ctx)
			if err != nil {
				return err
			}
			info, err := cli.Leader(ctx)
			if err == nil && info != nil {
				for node, candidate := range c.apps {
					if candidate.Address() == info.Address {
						leader, found = cli, node
						return nil
					}
				}
			}
			cli.Close()
			return fmt.Errorf("leader is %v, %w", info, errors.Join(err))
		}
		return errors.New("no node runs")
	})
	return leader, found
}

func (c *cluster) roles() map[string]client.NodeRole {
	c.Helper()
	leader, _ := c.leader()
	defer leader.Close()
	members, err := leader.Cluster(c.ctx)
	c.ok(err, "cluster")
	roles := map[string]client.NodeRole{}
	for _, member := range members {
		roles[member.Address] = member.Role
	}
	return roles
}

// put writes one row, again if need be: the key makes that harmless.
func (c *cluster) put(key int) {
	c.Helper()
	c.eventually("put", func() error {
		_, err := c.db.ExecContext(c.ctx, "INSERT OR IGNORE INTO kept(key) VALUES(?)", key)
		return err
	})
}

func (c *cluster) expectKept(count int) {
	c.Helper()
	c.eventually("count", func() error {
		var found int
		if err := c.db.QueryRowContext(c.ctx, "SELECT COUNT(*) FROM kept").Scan(&found); err != nil {
			return err
		}
		if found != count {
			c.Fatalf("%d rows kept, not %d", found, count)
		}
		return nil
	})
}

func TestScenario(t *testing.T) {
	c := &cluster{T: t, ctx: context.Background(), dir: t.TempDir(), apps: map[int]*app.App{}}
	defer func() {
		for _, running := range c.apps {
			running.Close()
		}
	}()
	step := func(name string, do func()) {
		started := time.Now()
		do()
		t.Logf("%-24s %v", name, time.Since(started).Round(time.Millisecond))
	}
	step("three nodes", c.threeNodes)
	step("typed columns", c.typedColumns)
	step("transactions", c.transactions)
	step("prepared statements", c.preparedStatements)
	step("busy contention", c.contention)
	step("leader transfer", c.transfer)
	step("leader loss", c.leaderLoss)
	step("dump", c.dump)
	step("join and removal", c.joinAndRemoval)
	step("recovery", c.recovery)
}

func (c *cluster) threeNodes() {
	for node := 1; node <= 3; node++ {
		c.start(node)
	}
	c.eventually("three voters", func() error {
		voters := 0
		for _, role := range c.roles() {
			if role == client.Voter {
				voters++
			}
		}
		if voters != 3 {
			return fmt.Errorf("%d voters", voters)
		}
		return nil
	})
	c.open(1)
	_, err := c.db.ExecContext(c.ctx, "CREATE TABLE kept(key INTEGER PRIMARY KEY)")
	c.ok(err, "create table")
	c.put(1)
}

func (c *cluster) typedColumns() {
	_, err := c.db.ExecContext(c.ctx, `CREATE TABLE typed(
		i INTEGER, f FLOAT, s TEXT, b BLOB, flag BOOLEAN, at DATETIME, empty TEXT)`)
	c.ok(err, "create table")
	at := time.Date(2024, 2, 29, 12, 30, 15, 0, time.UTC)
	_, err = c.db.ExecContext(c.ctx, "INSERT INTO typed VALUES(?, ?, ?, ?, ?, ?, ?)",
		int64(-1<<63), 0.1, "\u2713 text", []byte{0, 1, 255}, true, at, nil)
	c.ok(err, "insert")

	rows, err := c.db.QueryContext(c.ctx, "SELECT * FROM typed")
	c.ok(err, "query")
	defer rows.Close()
	names, err := rows.Columns()
	c.ok(err, "columns")
	if fmt.Sprint(names) != "[i f s b flag at empty]" {
		c.Fatalf("columns are %v", names)
	}
	if !rows.Next() {
		c.Fatalf("no row: %v", rows.Err())
	}
	var (
		i     int64
		f     float64
		s     string
		b     []byte
		flag  bool
		found time.Time
		empty sql.NullString
	)
	c.ok(rows.Scan(&i, &f, &s, &b, &flag, &found, &empty), "scan")
	if i != -1<<63 || f != 0.1 || s != "\u2713 text" || !bytes.Equal(b, []byte{0, 1, 255}) ||
		!flag || !found.Equal(at) || empty.Valid {
		c.Fatalf("read %v %v %q %v %v %v %v", i, f, s, b, flag, found, empty)
	}
	types, err := rows.ColumnTypes()
	c.ok(err, "column types")
	if len(types) != 7 {
		c.Fatalf("%d column types", len(types))
	}
	if rows.Next() || rows.Err() != nil {
		c.Fatalf("a second row, or %v", rows.Err())
	}
}

func (c *cluster) transactions() {
	_, err := c.db.ExecContext(c.ctx, "CREATE TABLE log(id INTEGER PRIMARY KEY, s TEXT)")
	c.ok(err, "create table")
	for _, commit := range []bool{true, false} {
		tx, err := c.db.BeginTx(c.ctx, nil)
		c.ok(err, "begin")
		for n := 0; n < 3; n++ {
			_, err = tx.ExecContext(c.ctx, "INSERT INTO log(s) VALUES(?)", fmt.Sprint(commit))
			c.ok(err, "insert")
		}
		var inside int
		c.ok(tx.QueryRowContext(c.ctx, "SELECT COUNT(*) FROM log WHERE s = ?", fmt.Sprint(commit)).Scan(&inside), "count")
		if inside != 3 {
			c.Fatalf("the transaction sees %d of its 3 rows", inside)
		}
		if commit {
			c.ok(tx.Commit(), "commit")
		} else {
			c.ok(tx.Rollback(), "rollback")
		}
	}
	result, err := c.db.ExecContext(c.ctx, "UPDATE log SET s = 'changed'")
	c.ok(err, "update")
	if affected, _ := result.RowsAffected(); affected != 3 {
		c.Fatalf("%d rows changed, not the 3 that were committed", affected)
	}
	result, err = c.db.ExecContext(c.ctx, "INSERT INTO log(id, s) VALUES(77, 'x')")
	c.ok(err, "insert")
	if id, _ := result.LastInsertId(); id != 77 {
		c.Fatalf("last insert id %d", id)
	}
	_, err = c.db.ExecContext(c.ctx, "INSERT INTO log(id, s) VALUES(77, 'again')")
	var refused driver.Error
	if !errors.As(err, &refused) || refused.Code != 1555 {
		c.Fatalf("a duplicate key is %v", err)
	}
}

func (c *cluster) preparedStatements() {
	insert, err := c.db.PrepareContext(c.ctx, "INSERT INTO log(id, s) VALUES(?, ?)")
	c.ok(err, "prepare")
	defer insert.Close()
	for id := 100; id < 1100; id += 10 {
		_, err = insert.ExecContext(c.ctx, id, fmt.Sprint("row ", id))
		c.ok(err, "execute")
	}
	query, err := c.db.PrepareContext(c.ctx, "SELECT s FROM log WHERE id = ?")
	c.ok(err, "prepare")
	defer query.Close()
	for id := 100; id < 1100; id += 10 {
		var s string
		c.ok(query.QueryRowContext(c.ctx, id).Scan(&s), "query")
		if s != fmt.Sprint("row ", id) {
			c.Fatalf("row %d is %q", id, s)
		}
	}
}

// Many writers at once. With DQLITE_SCENARIO_BUSY set (C dqlite before 1.18.2) "database is locked" means again.
func (c *cluster) contention() {
	_, err := c.db.ExecContext(c.ctx, "CREATE TABLE counter(n INTEGER); INSERT INTO counter VALUES(0)")
	c.ok(err, "create table")
	retry := os.Getenv("DQLITE_SCENARIO_BUSY") != ""
	insist := func(do func() error) error {
		for {
			err := do()
			var refused driver.Error
			if retry && errors.As(err, &refused) && refused.Code == driver.ErrBusy {
				time.Sleep(time.Millisecond)
				continue
			}
			return err
		}
	}
	add := "UPDATE counter SET n = n + 1"
	inTransaction := func() error {
		tx, err := c.db.BeginTx(c.ctx, nil)
		if err != nil {
			return err
		}
		for n := 0; n < 2 && err == nil; n++ {
			_, err = tx.ExecContext(c.ctx, add)
		}
		if err != nil {
			return errors.Join(err, tx.Rollback())
		}
		return tx.Commit()
	}
	const writers, rounds = 8, 10
	failed := make(chan error, writers)
	var group sync.WaitGroup
	for writer := 0; writer < writers; writer++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for round := 0; round < rounds; round++ {
				err := insist(func() error { _, err := c.db.ExecContext(c.ctx, add); return err })
				if err == nil {
					err = insist(inTransaction)
				}
				if err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	group.Wait()
	close(failed)
	for err := range failed {
		c.Errorf("a writer among %d: %v", writers, err)
	}
	var n int
	c.ok(c.db.QueryRowContext(c.ctx, "SELECT n FROM counter").Scan(&n), "count")
	if n != writers*rounds*3 {
		c.Fatalf("counted to %d, not %d", n, writers*rounds*3)
	}
}

func (c *cluster) transfer() {
	leader, from := c.leader()
	to := from%3 + 1
	c.ok(leader.Transfer(c.ctx, c.apps[to].ID()), "transfer")
	leader.Close()
	c.eventually("the new leader", func() error {
		leader, now := c.leader()
		leader.Close()
		if now != to {
			return fmt.Errorf("node %d leads, not %d", now, to)
		}
		return nil
	})
	c.put(2)
	c.expectKept(2)
}

func (c *cluster) leaderLoss() {
	leader, lost := c.leader()
	leader.Close()
	c.db.Close()
	c.stop(lost)
	c.open(lost%3 + 1)
	c.put(3)
	c.expectKept(3)
	c.start(lost)
	c.put(4)
	c.expectKept(4)
}

func (c *cluster) dump() {
	_, err := c.db.ExecContext(c.ctx, "INSERT INTO log(s) VALUES('a text to be found in the dump')")
	c.ok(err, "insert")
	leader, _ := c.leader()
	defer leader.Close()
	files, err := leader.Dump(c.ctx, database)
	c.ok(err, "dump")
	if len(files) != 2 || files[0].Name != database || files[1].Name != database+"-wal" {
		c.Fatalf("dumped %d files", len(files))
	}
	if !bytes.HasPrefix(files[0].Data, []byte("SQLite format 3\x00")) || len(files[0].Data)%4096 != 0 {
		c.Fatalf("the dump of %d bytes is no database", len(files[0].Data))
	}
	if !bytes.Contains(append(files[0].Data, files[1].Data...), []byte("a text to be found in the dump")) {
		c.Fatal("the dump lacks a row")
	}
}

func (c *cluster) joinAndRemoval() {
	c.start(4)
	c.eventually("node 4 is a stand-by", func() error {
		if role, there := c.roles()[address(4)]; !there || role != client.StandBy {
			return fmt.Errorf("node 4 is %v (known: %v)", role, there)
		}
		return nil
	})
	id := c.apps[4].ID()
	c.stop(4)
	leader, _ := c.leader()
	defer leader.Close()
	c.ok(leader.Remove(c.ctx, id), "remove")
	if roles := c.roles(); len(roles) != 3 {
		c.Fatalf("members after the removal: %v", roles)
	}
	c.put(5)
	c.expectKept(5)
}

// All nodes but the first are gone for good.
func (c *cluster) recovery() {
	c.eventually("node 1 leads", func() error {
		leader, leads := c.leader()
		defer leader.Close()
		if leads == 1 {
			return nil
		}
		return errors.Join(leader.Transfer(c.ctx, c.apps[1].ID()), errors.New("node 1 has to be asked"))
	})
	c.put(6)
	c.db.Close()
	id := c.apps[1].ID()
	for node := 1; node <= 3; node++ {
		c.stop(node)
	}
	members := []dqlite.NodeInfo{{ID: id, Address: address(1), Role: client.Voter}}
	c.ok(dqlite.ReconfigureMembershipExt(c.nodeDir(1), members), "reconfigure")
	c.start(1)
	c.open(1)
	c.expectKept(6)
	c.put(7)
	c.expectKept(7)
	if roles := c.roles(); len(roles) != 1 {
		c.Fatalf("members after the recovery: %v", roles)
	}
	c.db.Close()
}
