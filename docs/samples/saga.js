#!/usr/bin/env node
// A worker of the saga "order", with pg (node-postgres) 8.  Connects as PGHOST, PGDATABASE, PGUSER and so on say.
//
// saga.js              effects in the saga's database: a batch, its effects and its answers are one transaction
// saga.js elsewhere    effects in the database that PARTICIPANT says, which has evtstore too: each is a transaction there, then answered
'use strict'
const { Client, Query } = require('pg')

let stopping = false
let wake = () => {} // ends what the loop waits for
process.on('SIGTERM', () => {
  stopping = true
  wake()
})

// A no that the saga is told: it tries again, if that is of any use, or undoes what was done.
class Failure extends Error {
  constructor(error, cause, retryable = false) {
    super(`${error}: ${cause}`)
    this.answer = { do: 'fail', error, cause, retryable }
  }
}

// What is done in one's own tables: a function for each queue, with the body, and of an undo what came of the do.

async function reserve(client, { order, sku, pieces }) {
  const { rowCount } = await client.query('UPDATE stock SET free = free - $1 WHERE sku = $2 AND free >= $1', [pieces, sku])
  if (rowCount === 0) throw new Failure('SoldOut', sku)
  const { rows } = await client.query('INSERT INTO reservation (order_id, sku, pieces) VALUES ($1, $2, $3) RETURNING id', [order, sku, pieces])
  return { reservation: rows[0].id }
}

async function release(client, body, { reservation }) {
  await client.query('UPDATE stock SET free = free + r.pieces FROM reservation r WHERE r.id = $1 AND stock.sku = r.sku', [reservation])
  await client.query('INSERT INTO released (reservation_id) VALUES ($1)', [reservation])
}

async function charge(client, { order, card, amount }) {
  const { rowCount } = await client.query('UPDATE card SET credit = credit - $1 WHERE number = $2 AND credit >= $1', [amount, card])
  if (rowCount === 0) throw new Failure('Declined', card)
  await client.query('INSERT INTO payment (order_id, amount) VALUES ($1, $2)', [order, amount])
}

async function book(client, { order, carrier }) {
  const { rowCount } = await client.query('SELECT FROM carrier WHERE name = $1 AND busy', [carrier])
  if (rowCount > 0) throw new Failure('Busy', carrier, true)
  await client.query('INSERT INTO shipment (order_id, carrier) VALUES ($1, $2)', [order, carrier])
}

const HANDLERS = { 'inventory.reserve': reserve, 'inventory.release': release, 'payment.charge': charge, 'shipping.book': book }

// Does a command if it is to be done, and returns what came of it, now or when it was done.
async function handle(client, queue, { headers, body }) {
  const [key, direction] = headers.undo ? [headers.forward_key, 'undo'] : [headers.idempotency_key, 'do']
  const { rows: [guard] } = await client.query('SELECT * FROM evtstore.guard_step($1, $2)', [key, direction])
  if (guard.decision === 'rejected') throw new Failure('Rejected', 'its undo was here before it')
  if (guard.decision === 'empty' && headers.forward === 'done') {
    throw new Failure('Forgotten', 'the saga knows that it was done, and the guard does not')
  }
  if (guard.decision !== 'run') return guard.output
  const output = (await HANDLERS[queue](client, body, guard.output)) ?? null
  await client.query('SELECT evtstore.guard_output($1, $2)', [key, JSON.stringify(output)])
  return output
}

// Within begin and commit, or a savepoint: who fails undoes his effect, and what the guard knows of it.
async function answer(client, queue, command, begin, commit, rollback) {
  let result
  try {
    await client.query(begin)
    result = { do: 'reply', output: await handle(client, queue, command) }
    await client.query(commit)
  } catch (error) {
    await client.query(rollback).catch(() => {}) // where the connection is gone, the next query tells
    // what is nobody's answer is the same attempt again, by the queue's retry policy
    result = error instanceof Failure ? error.answer : { do: 'nack', reason: error.message }
  }
  return { receipt: command.receipt, ...result }
}

async function receive(client, queue, count) {
  const { rows } = await client.query('SELECT * FROM evtstore.receive($1, max_count => $2)', [queue, count])
  return rows
}

async function settle(client, results) {
  const { rows } = await client.query('SELECT * FROM evtstore.settle($1)', [JSON.stringify(results)])
  for (const { receipt, outcome } of rows) {
    if (outcome !== 'accepted') console.log(receipt, outcome) // late, duplicate, stale: the saga knows what to make of it
  }
}

// Claim, effects and answers are one transaction: all of it happens, or nothing.
async function work(client) {
  for (const queue in HANDLERS) {
    await client.query('BEGIN')
    const results = []
    for (const command of await receive(client, queue, 10)) {
      results.push(await answer(client, queue, command, 'SAVEPOINT command', 'RELEASE command', 'ROLLBACK TO command'))
    }
    await settle(client, results)
    await client.query('COMMIT')
  }
}

// Who dies between effect and answer has the command delivered again: the guard, over there, knows what came of it.
async function workElsewhere(client, own) {
  for (const queue in HANDLERS) {
    let command
    while (!stopping && ([command] = await receive(client, queue, 1)) && command) {
      // during a long effect call evtstore.extend(receipt, '30s') now and then, and stop where that is false
      await settle(client, [await answer(own, queue, command, 'BEGIN', 'COMMIT', 'ROLLBACK')])
      if (own.broken) throw new Error("the participant's database is gone")
    }
  }
}

// Sleeps until there is work; false when it is time to stop.
function wait(client) {
  if (stopping) return false
  return new Promise((resolve, reject) => {
    const call = client.query(new Query("CALL evtstore.wait_for_work($1, '30s')", [Object.keys(HANDLERS)]))
    wake = () => new Client().cancel(client, call)
    call.on('end', () => resolve(!stopping))
    call.on('error', (error) => (error.code === '57014' ? resolve(!stopping) : reject(error))) // query_canceled
  }).finally(() => { wake = () => {} })
}

async function connect(connectionString) {
  const client = new Client({ connectionString })
  client.on('error', () => { client.broken = true }) // the connection broke between two queries: the next one fails
  client.on('end', () => { client.broken = true })
  await client.connect()
  return client
}

async function main(work, participant) {
  let pause = 0
  while (!stopping) {
    const clients = []
    try {
      clients.push(await connect())
      if (participant) clients.push(await connect(participant))
      while (await wait(clients[0])) {
        await work(...clients)
        pause = 0
      }
      for (const client of clients) await client.end()
    } catch (error) {
      console.error(error.message)
      for (const client of clients) client.end().catch(() => {})
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
if (process.argv.includes('elsewhere')) main(workElsewhere, process.env.PARTICIPANT)
else main(work)
