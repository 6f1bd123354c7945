// A worker of the saga "order", with pgx 4.  Connects as PGHOST, PGDATABASE, PGUSER and so on say.
//
//	saga              effects in the saga's database: a batch, its effects and its answers are one transaction
//	saga elsewhere    effects in the database that PARTICIPANT says, which has evtstore too: each is a transaction there, then answered
//
// What is different with pgx 5 is at the head of receive.go.
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

	"github.com/jackc/pgx/v4"
)

// Failure is a no that the saga is told: it tries again, if that is of any use, or undoes what was done.
type Failure struct {
	Do        string `json:"do"`
	Name      string `json:"error"`
	Cause     string `json:"cause"`
	Retryable bool   `json:"retryable"`
}

func (f *Failure) Error() string { return f.Name + ": " + f.Cause }

func failure(name, cause string, retryable bool) error {
	return &Failure{"fail", name, cause, retryable}
}

type order struct {
	Order   string
	Sku     string
	Pieces  int
	Card    string
	Amount  json.Number
	Carrier string
}

type reservation struct {
	ID int64 `json:"reservation"`
}

type command struct {
	receipt string
	body    []byte
	headers struct {
		Undo           bool
		IdempotencyKey string `json:"idempotency_key"`
		ForwardKey     string `json:"forward_key"`
		Forward        string
	}
}

// What is done in one's own tables: a function for each queue, with the body, and of an undo what came of the do.
type handler func(ctx context.Context, tx pgx.Tx, body, done []byte) (output interface{}, err error)

func reserve(ctx context.Context, tx pgx.Tx, body, _ []byte) (interface{}, error) {
	var o order
	var r reservation
	if err := json.Unmarshal(body, &o); err != nil {
		return nil, err
	}
	tag, err := tx.Exec(ctx, "UPDATE stock SET free = free - $1 WHERE sku = $2 AND free >= $1", o.Pieces, o.Sku)
	if err != nil {
		return nil, err
	}
	if tag.RowsAffected() == 0 {
		return nil, failure("SoldOut", o.Sku, false)
	}
	err = tx.QueryRow(ctx, "INSERT INTO reservation (order_id, sku, pieces) VALUES ($1, $2, $3) RETURNING id", o.Order, o.Sku, o.Pieces).Scan(&r.ID)
	return r, err
}

func release(ctx context.Context, tx pgx.Tx, _, done []byte) (interface{}, error) {
	var r reservation
	if err := json.Unmarshal(done, &r); err != nil {
		return nil, err
	}
	_, err := tx.Exec(ctx, "UPDATE stock SET free = free + r.pieces FROM reservation r WHERE r.id = $1 AND stock.sku = r.sku", r.ID)
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, "INSERT INTO released (reservation_id) VALUES ($1)", r.ID)
	return nil, err
}

func charge(ctx context.Context, tx pgx.Tx, body, _ []byte) (interface{}, error) {
	var o order
	if err := json.Unmarshal(body, &o); err != nil {
		return nil, err
	}
	tag, err := tx.Exec(ctx, "UPDATE card SET credit = credit - $1 WHERE number = $2 AND credit >= $1", o.Amount.String(), o.Card)
	if err != nil {
		return nil, err
	}
	if tag.RowsAffected() == 0 {
		return nil, failure("Declined", o.Card, false)
	}
	_, err = tx.Exec(ctx, "INSERT INTO payment (order_id, amount) VALUES ($1, $2)", o.Order, o.Amount.String())
	return nil, err
}

func book(ctx context.Context, tx pgx.Tx, body, _ []byte) (interface{}, error) {
	var o order
	var busy bool
	if err := json.Unmarshal(body, &o); err != nil {
		return nil, err
	}
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM carrier WHERE name = $1 AND busy)", o.Carrier).Scan(&busy); err != nil {
		return nil, err
	}
	if busy {
		return nil, failure("Busy", o.Carrier, true)
	}
	_, err := tx.Exec(ctx, "INSERT INTO shipment (order_id, carrier) VALUES ($1, $2)", o.Order, o.Carrier)
	return nil, err
}

var queues = []string{"inventory.reserve", "inventory.release", "payment.charge", "shipping.book"}

var handlers = map[string]handler{"inventory.reserve": reserve, "inventory.release": release, "payment.charge": charge, "shipping.book": book}

// handle does a command if it is to be done, and returns what came of it, now or when it was done.
func handle(ctx context.Context, tx pgx.Tx, queue string, c command) (output json.RawMessage, err error) {
	key, direction := c.headers.IdempotencyKey, "do"
	if c.headers.Undo {
		key, direction = c.headers.ForwardKey, "undo"
	}
	var decision string
	if err := tx.QueryRow(ctx, "SELECT * FROM evtstore.guard_step($1, $2)", key, direction).Scan(&decision, (*[]byte)(&output)); err != nil {
		return nil, err
	}
	switch {
	case decision == "rejected":
		return nil, failure("Rejected", "its undo was here before it", false)
	case decision == "empty" && c.headers.Forward == "done":
		return nil, failure("Forgotten", "the saga knows that it was done, and the guard does not", false)
	case decision != "run":
		return output, nil
	}
	made, err := handlers[queue](ctx, tx, c.body, output)
	if err != nil {
		return nil, err
	}
	if output, err = json.Marshal(made); err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, "SELECT evtstore.guard_output($1, $2)", key, string(output))
	return output, err
}

// What connection and transaction have in common.
type database interface {
	Query(ctx context.Context, sql string, args ...interface{}) (pgx.Rows, error)
	BeginFunc(ctx context.Context, f func(pgx.Tx) error) error
}

func answer(ctx context.Context, db database, queue string, c command) map[string]interface{} {
	var output json.RawMessage
	// a transaction, or in one a savepoint: who fails undoes his effect, and what the guard knows of it
	err := db.BeginFunc(ctx, func(tx pgx.Tx) (err error) {
		output, err = handle(ctx, tx, queue, c)
		return err
	})
	var no *Failure
	switch {
	case err == nil && output == nil:
		return map[string]interface{}{"receipt": c.receipt, "do": "reply"}
	case err == nil:
		return map[string]interface{}{"receipt": c.receipt, "do": "reply", "output": output}
	case errors.As(err, &no):
		return map[string]interface{}{"receipt": c.receipt, "do": no.Do, "error": no.Name, "cause": no.Cause, "retryable": no.Retryable}
	}
	// nobody's answer: the same attempt again, by the queue's retry policy
	return map[string]interface{}{"receipt": c.receipt, "do": "nack", "reason": err.Error()}
}

func receive(ctx context.Context, db database, queue string, count int) (commands []command, err error) {
	rows, err := db.Query(ctx, "SELECT receipt, body, headers FROM evtstore.receive($1, max_count => $2)", queue, count)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c command
		var headers []byte
		if err := rows.Scan(&c.receipt, &c.body, &headers); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(headers, &c.headers); err != nil {
			return nil, err
		}
		commands = append(commands, c)
	}
	return commands, rows.Err()
}

func settle(ctx context.Context, db database, results []map[string]interface{}) error {
	text, err := json.Marshal(results)
	if err != nil {
		return err
	}
	rows, err := db.Query(ctx, "SELECT receipt, outcome FROM evtstore.settle($1) WHERE outcome <> 'accepted'", string(text))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() { // late, duplicate, stale: the saga knows what to make of it
		var receipt, outcome string
		if err := rows.Scan(&receipt, &outcome); err != nil {
			return err
		}
		fmt.Println(receipt, outcome)
	}
	return rows.Err()
}

// Claim, effects and answers are one transaction: all of it happens, or nothing.
func work(_, ctx context.Context, conn, _ *pgx.Conn) error {
	for _, queue := range queues {
		err := conn.BeginFunc(ctx, func(tx pgx.Tx) error {
			commands, err := receive(ctx, tx, queue, 10)
			if err != nil {
				return err
			}
			results := []map[string]interface{}{}
			for _, c := range commands {
				results = append(results, answer(ctx, tx, queue, c))
			}
			return settle(ctx, tx, results)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Who dies between effect and answer has the command delivered again: the guard, over there, knows what came of it.
func workElsewhere(stop, ctx context.Context, conn, own *pgx.Conn) error {
	for _, queue := range queues {
		for stop.Err() == nil {
			commands, err := receive(ctx, conn, queue, 1)
			if err != nil {
				return err
			}
			if len(commands) == 0 {
				break
			}
			// during a long effect call evtstore.extend(receipt, '30s') now and then, and stop where that is false
			if err := settle(ctx, conn, []map[string]interface{}{answer(ctx, own, queue, commands[0])}); err != nil {
				return err
			}
			if own.IsClosed() {
				return errors.New("the participant's database is gone")
			}
		}
	}
	return nil
}

func connect(ctx context.Context, participant string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(participant)
	if err != nil {
		return nil, err
	}
	// without prepared statements, because PgBouncer in transaction mode gives each transaction another session
	config.PreferSimpleProtocol = true
	return pgx.ConnectConfig(ctx, config)
}

type worker func(stop, ctx context.Context, conn, own *pgx.Conn) error

// consume works until stop is done or something fails, and says whether it came to work.
func consume(stop context.Context, work worker, participant string) (worked bool, err error) {
	conn, err := connect(stop, "")
	if err != nil {
		return false, err
	}
	defer conn.Close(context.Background())
	var own *pgx.Conn
	if participant != "" {
		if own, err = connect(stop, participant); err != nil {
			return false, err
		}
		defer own.Close(context.Background())
	}
	for {
		// outside of a transaction; stop cancels it, and nothing else: what was begun is finished
		if _, err := conn.Exec(stop, "CALL evtstore.wait_for_work($1, '30s')", queues); err != nil {
			conn.Close(context.Background())
			<-conn.PgConn().CleanupDone() // the request to cancel is sent in the background
			return worked, err
		}
		if err := work(stop, context.Background(), conn, own); err != nil {
			return worked, err
		}
		worked = true
	}
}

func main() {
	do, participant := worker(work), ""
	if len(os.Args) > 1 && os.Args[1] == "elsewhere" {
		do, participant = workElsewhere, os.Getenv("PARTICIPANT")
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	pause := time.Duration(0)
	for stop.Err() == nil {
		worked, err := consume(stop, do, participant)
		if stop.Err() != nil {
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
		case <-stop.Done():
		case <-time.After(pause):
		}
	}
}
