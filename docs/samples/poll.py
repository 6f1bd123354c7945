#!/usr/bin/env python3
"""A consumer of the subscription "orders", with psycopg 3.  Connects as PGHOST, PGDATABASE, PGUSER and so on say.

poll.py              effects in this database, exactly once
poll.py elsewhere    effects elsewhere, at least once
"""
import os
import signal
import socket
import sys
import threading

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

SUBSCRIPTION = "orders"
# one name for each process, the same after a restart
CONSUMER = os.environ.get("CONSUMER", socket.gethostname())

stopping = threading.Event()
waiting = None  # the connection that sleeps in wait_for_work


def stop(signum, frame):
    stopping.set()
    if waiting:
        waiting.cancel()


def wait(conn):
    """Sleeps until there is work; False when it is time to stop."""
    global waiting
    waiting = conn
    try:
        if not stopping.is_set():
            conn.execute("CALL evtstore.wait_for_work(ARRAY[%s], '30s')", [SUBSCRIPTION])
    except psycopg.errors.QueryCanceled:
        pass
    finally:
        waiting = None
    return not stopping.is_set()


def leave(conn):
    conn.execute("SELECT evtstore.leave(%s, %s)", [SUBSCRIPTION, CONSUMER])


def poll(conn):
    return conn.execute("SELECT * FROM evtstore.poll(%s, %s, max_count => 10)", [SUBSCRIPTION, CONSUMER]).fetchall()


def release(conn, later):
    """Events behind one that failed must not pass it.  Most are stale already, which settle does not mind."""
    conn.execute("SELECT * FROM evtstore.settle(%s)", [Jsonb([{"receipt": receipt, "do": "release"} for receipt in later])])


def effect(conn, event):
    conn.execute("INSERT INTO order_log (position, stream, version, total) VALUES (%s, %s, %s, %s)",
                 [event.position, event.stream, event.version, event.body["total"]])


def work(conn):
    """Poll, effect and ack are one transaction: all of it happens, or nothing."""
    with conn.transaction():
        done, failed, later = [], set(), []
        for event in poll(conn):
            if event.key is not None and event.key in failed:
                later.append(event.receipt)
                continue
            try:
                with conn.transaction():  # a savepoint: who fails undoes his own effect only
                    effect(conn, event)
                done.append(event.receipt)
            except Exception as error:
                conn.execute("SELECT evtstore.nack(%s, %s)", [event.receipt, str(error)])
                failed.add(event.key)
        conn.execute("SELECT evtstore.ack(%s)", [done])
        release(conn, later)


def effect_elsewhere(event):
    # what talks to another system; event_id tells it when an event comes a second time
    print(event.position, event.body["total"], flush=True)


def work_elsewhere(conn):
    """No transaction is open during the effect.  Who dies between effect and ack has the event delivered again."""
    for event in poll(conn):
        try:
            # a heartbeat: those before it took their time; call it during a long effect too
            conn.execute("SELECT evtstore.extend(%s, '30s')", [event.receipt])
            effect_elsewhere(event)
            conn.execute("SELECT evtstore.ack(%s)", [event.receipt])
        except psycopg.Error as error:
            # stale: the lease was over, or an older event of its key failed: it comes again after that one
            if error.sqlstate != "ST007":
                raise
        except Exception as error:
            conn.execute("SELECT evtstore.nack(%s, %s)", [event.receipt, str(error)])


def main(work):
    signal.signal(signal.SIGTERM, stop)
    pause = 0
    while not stopping.is_set():
        try:
            # autocommit: wait_for_work runs outside of transactions.  Without prepared statements, because PgBouncer in
            # transaction mode gives each transaction another session.
            with psycopg.connect(autocommit=True, prepare_threshold=None, row_factory=namedtuple_row) as conn:
                # what an earlier life of this consumer did not settle comes again at once
                leave(conn)
                while wait(conn):
                    work(conn)
                    pause = 0
                # the others have its lanes at once
                leave(conn)
        except psycopg.Error as error:
            print(error, file=sys.stderr)
            pause = min(2 * pause + 0.1, 10)
            stopping.wait(pause)


main(work_elsewhere if "elsewhere" in sys.argv[1:] else work)
