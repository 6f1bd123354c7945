#!/usr/bin/env python3
"""A worker of the saga "order", with psycopg 3.  Connects as PGHOST, PGDATABASE, PGUSER and so on say.

saga.py              effects in the saga's database: a batch, its effects and its answers are one transaction
saga.py elsewhere    effects in the database that PARTICIPANT says, which has evtstore too: each is a transaction there, then answered
"""
import os
import signal
import sys
import threading
from contextlib import nullcontext

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

stopping = threading.Event()
waiting = None  # the connection that sleeps in wait_for_work


class Failure(Exception):
    """A no that the saga is told: it tries again, if that is of any use, or undoes what was done."""

    def __init__(self, error, cause, retryable=False):
        super().__init__(f"{error}: {cause}")
        self.answer = {"do": "fail", "error": error, "cause": cause, "retryable": retryable}


# What is done in one's own tables: a function for each queue, with the body, and of an undo what came of the do.


def reserve(conn, order, _):
    if not conn.execute("UPDATE stock SET free = free - %s WHERE sku = %s AND free >= %s",
                        [order["pieces"], order["sku"], order["pieces"]]).rowcount:
        raise Failure("SoldOut", order["sku"])
    row = conn.execute("INSERT INTO reservation (order_id, sku, pieces) VALUES (%s, %s, %s) RETURNING id",
                       [order["order"], order["sku"], order["pieces"]]).fetchone()
    return {"reservation": row.id}


def release(conn, _, done):
    conn.execute("UPDATE stock SET free = free + r.pieces FROM reservation r WHERE r.id = %s AND stock.sku = r.sku", [done["reservation"]])
    conn.execute("INSERT INTO released (reservation_id) VALUES (%s)", [done["reservation"]])


def charge(conn, order, _):
    if not conn.execute("UPDATE card SET credit = credit - %s WHERE number = %s AND credit >= %s",
                        [order["amount"], order["card"], order["amount"]]).rowcount:
        raise Failure("Declined", order["card"])
    conn.execute("INSERT INTO payment (order_id, amount) VALUES (%s, %s)", [order["order"], order["amount"]])


def book(conn, order, _):
    if conn.execute("SELECT FROM carrier WHERE name = %s AND busy", [order["carrier"]]).rowcount:
        raise Failure("Busy", order["carrier"], retryable=True)
    conn.execute("INSERT INTO shipment (order_id, carrier) VALUES (%s, %s)", [order["order"], order["carrier"]])


HANDLERS = {"inventory.reserve": reserve, "inventory.release": release, "payment.charge": charge, "shipping.book": book}


def handle(conn, queue, command):
    """Does a command if it is to be done, and returns what came of it, now or when it was done."""
    undo = command.headers["undo"]
    key = command.headers["forward_key" if undo else "idempotency_key"]
    guard = conn.execute("SELECT * FROM evtstore.guard_step(%s, %s)", [key, "undo" if undo else "do"]).fetchone()
    if guard.decision == "rejected":
        raise Failure("Rejected", "its undo was here before it")
    if guard.decision == "empty" and command.headers["forward"] == "done":
        raise Failure("Forgotten", "the saga knows that it was done, and the guard does not")
    if guard.decision != "run":
        return guard.output
    output = HANDLERS[queue](conn, command.body, guard.output)
    conn.execute("SELECT evtstore.guard_output(%s, %s)", [key, Jsonb(output)])
    return output


def answer(conn, queue, command):
    try:
        with conn.transaction():  # or a savepoint: who fails undoes his effect, and what the guard knows of it
            result = {"do": "reply", "output": handle(conn, queue, command)}
    except Failure as failure:
        result = failure.answer
    except Exception as error:  # nobody's answer: the same attempt again, by the queue's retry policy
        result = {"do": "nack", "reason": str(error)}
    return {"receipt": command.receipt, **result}


def receive(conn, queue, max_count):
    return conn.execute("SELECT * FROM evtstore.receive(%s, max_count => %s)", [queue, max_count]).fetchall()


def settle(conn, results):
    for row in conn.execute("SELECT * FROM evtstore.settle(%s)", [Jsonb(results)]).fetchall():
        if row.outcome != "accepted":  # late, duplicate, stale: the saga knows what to make of it
            print(row.receipt, row.outcome, flush=True)


def work(conn, own):
    """Claim, effects and answers are one transaction: all of it happens, or nothing."""
    for queue in HANDLERS:
        with conn.transaction():
            settle(conn, [answer(conn, queue, command) for command in receive(conn, queue, 10)])


def work_elsewhere(conn, own):
    """Who dies between effect and answer has the command delivered again: the guard, over there, knows what came of it."""
    for queue in HANDLERS:
        while not stopping.is_set() and (commands := receive(conn, queue, 1)):
            # during a long effect call evtstore.extend(receipt, '30s') now and then, and stop where that is false
            settle(conn, [answer(own, queue, commands[0])])
            if own.closed:
                raise psycopg.OperationalError("the participant's database is gone")


def wait(conn):
    """Sleeps until there is work; False when it is time to stop."""
    global waiting
    waiting = conn
    try:
        if not stopping.is_set():
            conn.execute("CALL evtstore.wait_for_work(%s, '30s')", [list(HANDLERS)])
    except psycopg.errors.QueryCanceled:
        pass
    finally:
        waiting = None
    return not stopping.is_set()


def stop(signum, frame):
    stopping.set()
    if waiting:
        waiting.cancel()


def connect(conninfo=""):
    # autocommit: wait_for_work runs outside of transactions.  Without prepared statements, because PgBouncer in transaction
    # mode gives each transaction another session.
    return psycopg.connect(conninfo, autocommit=True, prepare_threshold=None, row_factory=namedtuple_row)


def main(work, participant):
    signal.signal(signal.SIGTERM, stop)
    pause = 0
    while not stopping.is_set():
        try:
            with connect() as conn, (connect(participant) if participant else nullcontext()) as own:
                while wait(conn):
                    work(conn, own)
                    pause = 0
        except psycopg.Error as error:
            print(error, file=sys.stderr)
            pause = min(2 * pause + 0.1, 10)
            stopping.wait(pause)


if "elsewhere" in sys.argv[1:]:
    main(work_elsewhere, os.environ["PARTICIPANT"])
else:
    main(work, None)
