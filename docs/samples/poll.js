#!/usr/bin/env node
// A consumer of the subscription "orders", with pg (node-postgres) 8.  Connects as PGHOST, PGDATABASE, PGUSER and so on say.
//
// poll.js              effects in this database, exactly once
// poll.js elsewhere    effects elsewhere, at least once
'use strict'
const os = require('os')
const { Client, Query } = require('pg')

const SUBSCRIPTION = 'orders'
// one name for each process, the same after a restart
const CONSUMER = process.env.CONSUMER || os.hostname()

let stopping = false
let wake = () => {} // ends what the loop waits for
process.on('SIGTERM', () => {
  stopping = true
  wake()
})

// Sleeps until there is work; false when it is time to stop.
function wait(client) {
  if (stopping) return false
  return new Promise((resolve, reject) => {
    const call = client.query(new Query("CALL evtstore.wait_for_work(ARRAY[$1], '30s')", [SUBSCRIPTION]))
    wake = () => new Client().cancel(client, call)
    call.on('end', () => resolve(!stopping))
    call.on('error', (error) => (error.code === '57014' ? resolve(!stopping) : reject(error))) // query_canceled
  }).finally(() => { wake = () => {} })
}

function leave(client) {
  return client.query('SELECT evtstore.leave($1, $2)', [SUBSCRIPTION, CONSUMER])
}

async function poll(client) {
  return (await client.query('SELECT * FROM evtstore.poll($1, $2, max_count => 10)', [SUBSCRIPTION, CONSUMER])).rows
}

// Events behind one that failed must not pass it.  Most are stale already, which settle does not mind.
async function release(client, later) {
  const results = later.map((receipt) => ({ receipt, do: 'release' }))
  await client.query('SELECT * FROM evtstore.settle($1)', [JSON.stringify(results)])
}

async function effect(client, { position, stream, version, body }) {
  await client.query('INSERT INTO order_log (position, stream, version, total) VALUES ($1, $2, $3, $4)',
    [position, stream, version, body.total])
}

// Poll, effect and ack are one transaction: all of it happens, or nothing.
async function work(client) {
  const done = []
  const failed = new Set()
  const later = []
  await client.query('BEGIN')
  for (const event of await poll(client)) {
    if (event.key !== null && failed.has(event.key)) {
      later.push(event.receipt)
      continue
    }
    await client.query('SAVEPOINT event') // who fails undoes his own effect only
    try {
      await effect(client, event)
      done.push(event.receipt)
    } catch (error) {
      await client.query('ROLLBACK TO event')
      await client.query('SELECT evtstore.nack($1, $2)', [event.receipt, error.message])
      failed.add(event.key)
    }
  }
  await client.query('SELECT evtstore.ack($1)', [done])
  await release(client, later)
  await client.query('COMMIT')
}

async function effectElsewhere({ position, body }) {
  // what talks to another system; event_id tells it when an event comes a second time
  if (body.total === undefined) throw new Error('no total')
  console.log(position, body.total)
}

// No transaction is open during the effect.  Who dies between effect and ack has the event delivered again.
async function workElsewhere(client) {
  for (const event of await poll(client)) {
    try {
      // a heartbeat: those before it took their time; call it during a long effect too
      await client.query("SELECT evtstore.extend($1, '30s')", [event.receipt])
      await effectElsewhere(event)
      await client.query('SELECT evtstore.ack($1)', [event.receipt])
    } catch (error) {
      // stale: the lease was over, or an older event of its key failed: it comes again after that one
      if (error.code === 'ST007') continue
      await client.query('SELECT evtstore.nack($1, $2)', [event.receipt, error.message])
    }
  }
}

async function main(work) {
  let pause = 0
  while (!stopping) {
    const client = new Client()
    client.on('error', () => {}) // the connection broke between two queries: the next one fails
    try {
      await client.connect()
      // what an earlier life of this consumer did not settle comes again at once
      await leave(client)
      while (await wait(client)) {
        await work(client)
        pause = 0
      }
      // the others have its lanes at once
      await leave(client)
      await client.end()
    } catch (error) {
      console.error(error.message)
      client.end().catch(() => {})
      pause = Math.min(2 * pause + 100, 10000)
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, pause)
        wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }
}

// No process.exit: the request to cancel is to be closed by its other end, or PgBouncer 1.18 dies of it.
main(process.argv.includes('elsewhere') ? workElsewhere : work)
