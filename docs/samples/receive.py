#!/usr/bin/env python3
"""A consumer of the queue "mail", with psycopg 3.  Connects as PGHOST, PGDATABASE, PGUSER and so on say.

receive.py              effects in this database, exactly once
receive.py elsewhere    effects elsewhere, at least once
"""
import signal
import sys
import threading

import psycopg
from psycopg.rows import namedtuple_row

QUEUE = "mail"

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
            conn.execute("CALL evtstore.wait_for_work(ARRAY[%s], '30s')", [QUEUE])
    except psycopg.errors.QueryCanceled:
        pass
    finally:
        waiting = None
    return not stopping.is_set()


def effect(conn, message):
    conn.execute("INSERT INTO sent_mail (message_id, recipient, subject) VALUES (%s, %s, %s)",
                 [message.message_id, message.body["to"], message.body["subject"]])


def work(conn):
    """Claim, effect and ack are one transaction: all of it happens, or nothing."""
    with conn.transaction():
        done = []
        for message in conn.execute("SELECT * FROM evtstore.receive(%s, max_count => 10)", [QUEUE]).fetchall():
            try:
                with conn.transaction():  # a savepoint: who fails undoes his own effect only
                    effect(conn, message)
                done.append(message.receipt)
            except Exception as error:
                conn.execute("SELECT evtstore.nack(%s, %s)", [message.receipt, str(error)])
        conn.execute("SELECT evtstore.ack(%s)", [done])


def effect_elsewhere(message):
    # what talks to another system; message_id tells it when a message comes a second time
    print(message.message_id, message.body["to"], flush=True)


def work_elsewhere(conn):
    """No transaction is open during the effect.  Who dies between effect and ack has the message delivered again."""
    for message in conn.execute("SELECT * FROM evtstore.receive(%s, max_count => 10)", [QUEUE]).fetchall():
        try:
            # a heartbeat: those before it took their time; call it during a long effect too
            conn.execute("SELECT evtstore.extend(%s, '30s')", [message.receipt])
            effect_elsewhere(message)
            conn.execute("SELECT evtstore.ack(%s)", [message.receipt])
        except psycopg.Error as error:
            if error.sqlstate != "ST007":  # stale: the lease was over, somebody else has it
                raise
        except Exception as error:
            conn.execute("SELECT evtstore.nack(%s, %s)", [message.receipt, str(error)])


def main(work):
    signal.signal(signal.SIGTERM, stop)
    pause = 0
    while not stopping.is_set():
        try:
            # autocommit: wait_for_work runs outside of transactions.  Without prepared statements, because PgBouncer in
            # transaction mode gives each transaction another session.
            with psycopg.connect(autocommit=True, prepare_threshold=None, row_factory=namedtuple_row) as conn:
                while wait(conn):
                    work(conn)
                    pause = 0
        except psycopg.Error as error:
            print(error, file=sys.stderr)
            pause = min(2 * pause + 0.1, 10)
            stopping.wait(pause)


main(work_elsewhere if "elsewhere" in sys.argv[1:] else work)
