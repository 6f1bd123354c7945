// A consumer of the subscription "orders", with pgx 4.  Connects as PGHOST, PGDATABASE, PGUSER and so on say.
//
//	poll              effects in this database, exactly once
//	poll elsewhere    effects elsewhere, at least once
//
// With pgx 5, which this was not tried with, pgconn is a part of it, pgx.BeginFunc(ctx, tx, f) is what tx.BeginFunc(ctx, f)
// is here, and config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol takes the place of PreferSimpleProtocol.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
)

const subscription = "orders"

// One name for each process, the same after a restart.
var consumer = os.Getenv("CONSUMER")

type event struct {
	receipt  string
	key      *string
	position int64
	stream   string
	version  int64
	body     []byte
}

type order struct {
	Total *float64
}

// What conn and transaction have in common.
type querier interface {
	Query(ctx context.Context, sql string, args ...interface{}) (pgx.Rows, error)
}

func poll(ctx context.Context, db querier) (events []event, err error) {
	rows, err := db.Query(ctx, `SELECT receipt, key, position, stream, version, body
		FROM evtstore.poll($1, $2, max_count => 10)`, subscription, consumer)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var e event
		if err := rows.Scan(&e.receipt, &e.key, &e.position, &e.stream, &e.version, &e.body); err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, rows.Err()
}

func effect(ctx context.Context, tx pgx.Tx, e event) error {
	var order order
	if err := json.Unmarshal(e.body, &order); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "INSERT INTO order_log (position, stream, version, total) VALUES ($1, $2, $3, $4)",
		e.position, e.stream, e.version, order.Total)
	return err
}

// Events behind one that failed must not pass it.  Most are stale already, which settle does not mind.
func release(ctx context.Context, tx pgx.Tx, later []string) error {
	results := []map[string]string{}
	for _, receipt := range later {
		results = append(results, map[string]string{"receipt": receipt, "do": "release"})
	}
	list, err := json.Marshal(results)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "SELECT * FROM evtstore.settle($1)", string(list))
	return err
}

// Poll, effect and ack are one transaction: all of it happens, or nothing.
func work(ctx context.Context, conn *pgx.Conn) error {
	return conn.BeginFunc(ctx, func(tx pgx.Tx) error {
		events, err := poll(ctx, tx)
		if err != nil {
			return err
		}
		done, later := []string{}, []string{}
		failed := map[string]bool{}
		for _, e := range events {
			if e.key != nil && failed[*e.key] {
				later = append(later, e.receipt)
				continue
			}
			// a savepoint: who fails undoes his own effect only
			err := tx.BeginFunc(ctx, func(tx pgx.Tx) error { return effect(ctx, tx, e) })
			if err == nil {
				done = append(done, e.receipt)
				continue
			}
			if _, err := tx.Exec(ctx, "SELECT evtstore.nack($1, $2)", e.receipt, err.Error()); err != nil {
				return err
			}
			if e.key != nil {
				failed[*e.key] = true
			}
		}
		if _, err := tx.Exec(ctx, "SELECT evtstore.ack($1)", done); err != nil {
			return err
		}
		return release(ctx, tx, later)
	})
}

func effectElsewhere(ctx context.Context, e event) error {
	// what talks to another system; the event's id tells it when an event comes a second time
	var order order
	if err := json.Unmarshal(e.body, &order); err != nil {
		return err
	}
	if order.Total == nil {
		return errors.New("no total")
	}
	fmt.Println(e.position, *order.Total)
	return nil
}

// No transaction is open during the effect.  Who dies between effect and ack has the event delivered again.
func workElsewhere(ctx context.Context, conn *pgx.Conn) error {
	events, err := poll(ctx, conn)
	if err != nil {
		return err
	}
	for _, e := range events {
		// a heartbeat: those before it took their time; call it during a long effect too
		_, err := conn.Exec(ctx, "SELECT evtstore.extend($1, '30s')", e.receipt)
		if err == nil {
			if failure := effectElsewhere(ctx, e); failure == nil {
				_, err = conn.Exec(ctx, "SELECT evtstore.ack($1)", e.receipt)
			} else {
				_, err = conn.Exec(ctx, "SELECT evtstore.nack($1, $2)", e.receipt, failure.Error())
			}
		}
		if err != nil && !isStale(err) {
			return err
		}
	}
	return nil
}

// The lease was over, or an older event of its key failed: it comes again after that one.
func isStale(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "ST007"
}

func connect(ctx context.Context) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig("")
	if err != nil {
		return nil, err
	}
	// without prepared statements, because PgBouncer in transaction mode gives each transaction another session
	config.PreferSimpleProtocol = true
	return pgx.ConnectConfig(ctx, config)
}

func leave(conn *pgx.Conn) error {
	_, err := conn.Exec(context.Background(), "SELECT evtstore.leave($1, $2)", subscription, consumer)
	return err
}

// consume works until ctx is done or something fails, and says whether it came to work.
func consume(ctx context.Context, work func(context.Context, *pgx.Conn) error) (worked bool, err error) {
	conn, err := connect(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close(context.Background())
	// what an earlier life of this consumer did not settle comes again at once
	if err := leave(conn); err != nil {
		return false, err
	}
	for {
		// outside of a transaction; ctx cancels it, and nothing else: a batch that was begun is finished
		if _, err := conn.Exec(ctx, "CALL evtstore.wait_for_work(ARRAY[$1], '30s')", subscription); err != nil {
			conn.Close(context.Background())
			<-conn.PgConn().CleanupDone() // the request to cancel is sent in the background
			return worked, err
		}
		if err := work(context.Background(), conn); err != nil {
			return worked, err
		}
		worked = true
	}
}

func main() {
	do := work
	if len(os.Args) > 1 && os.Args[1] == "elsewhere" {
		do = workElsewhere
	}
	if consumer == "" {
		consumer, _ = os.Hostname()
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	pause := time.Duration(0)
	for ctx.Err() == nil {
		worked, err := consume(ctx, do)
		if ctx.Err() != nil {
			break
		}
		log.Print(err)
		if worked {
			pause = 0
		}
		if pause = 2*pause + 100*time.Millisecond; pause > 10*time.Second {
			pause = 10 * time.Second
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	// the others have its lanes at once; the connection that was waiting is closed
	if conn, err := connect(context.Background()); err == nil {
		defer conn.Close(context.Background())
		leave(conn)
	}
}
