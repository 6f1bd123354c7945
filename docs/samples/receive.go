// A consumer of the queue "mail", with pgx 4.  Connects as PGHOST, PGDATABASE, PGUSER and so on say.
//
//	receive              effects in this database, exactly once
//	receive elsewhere    effects elsewhere, at least once
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

const queue = "mail"

type message struct {
	receipt string
	id      int64
	body    []byte
}

type mail struct {
	To      *string
	Subject *string
}

// What conn and transaction have in common.
type querier interface {
	Query(ctx context.Context, sql string, args ...interface{}) (pgx.Rows, error)
}

func receive(ctx context.Context, db querier) (messages []message, err error) {
	rows, err := db.Query(ctx, "SELECT receipt, message_id, body FROM evtstore.receive($1, max_count => 10)", queue)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var m message
		if err := rows.Scan(&m.receipt, &m.id, &m.body); err != nil {
			return nil, err
		}
		messages = append(messages, m)
	}
	return messages, rows.Err()
}

func effect(ctx context.Context, tx pgx.Tx, m message) error {
	var mail mail
	if err := json.Unmarshal(m.body, &mail); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "INSERT INTO sent_mail (message_id, recipient, subject) VALUES ($1, $2, $3)",
		m.id, mail.To, mail.Subject)
	return err
}

// Claim, effect and ack are one transaction: all of it happens, or nothing.
func work(ctx context.Context, conn *pgx.Conn) error {
	return conn.BeginFunc(ctx, func(tx pgx.Tx) error {
		messages, err := receive(ctx, tx)
		if err != nil {
			return err
		}
		done := []string{}
		for _, m := range messages {
			// a savepoint: who fails undoes his own effect only
			err := tx.BeginFunc(ctx, func(tx pgx.Tx) error { return effect(ctx, tx, m) })
			if err == nil {
				done = append(done, m.receipt)
			} else if _, err := tx.Exec(ctx, "SELECT evtstore.nack($1, $2)", m.receipt, err.Error()); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, "SELECT evtstore.ack($1)", done)
		return err
	})
}

func effectElsewhere(ctx context.Context, m message) error {
	// what talks to another system; the id tells it when a message comes a second time
	var mail mail
	if err := json.Unmarshal(m.body, &mail); err != nil {
		return err
	}
	if mail.To == nil {
		return errors.New("nobody to write to")
	}
	fmt.Println(m.id, *mail.To)
	return nil
}

// No transaction is open during the effect.  Who dies between effect and ack has the message delivered again.
func workElsewhere(ctx context.Context, conn *pgx.Conn) error {
	messages, err := receive(ctx, conn)
	if err != nil {
		return err
	}
	for _, m := range messages {
		// a heartbeat: those before it took their time; call it during a long effect too
		_, err := conn.Exec(ctx, "SELECT evtstore.extend($1, '30s')", m.receipt)
		if err == nil {
			if failure := effectElsewhere(ctx, m); failure == nil {
				_, err = conn.Exec(ctx, "SELECT evtstore.ack($1)", m.receipt)
			} else {
				_, err = conn.Exec(ctx, "SELECT evtstore.nack($1, $2)", m.receipt, failure.Error())
			}
		}
		if err != nil && !isStale(err) {
			return err
		}
	}
	return nil
}

// The lease was over, and somebody else has it.
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

// consume works until ctx is done or something fails, and says whether it came to work.
func consume(ctx context.Context, work func(context.Context, *pgx.Conn) error) (worked bool, err error) {
	conn, err := connect(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close(context.Background())
	for {
		// outside of a transaction; ctx cancels it, and nothing else: a batch that was begun is finished
		if _, err := conn.Exec(ctx, "CALL evtstore.wait_for_work(ARRAY[$1], '30s')", queue); err != nil {
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
}
