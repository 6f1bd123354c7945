#!/usr/bin/env node
// A consumer of the queue "mail", with pg (node-postgres) 8.  Connects as PGHOST, PGDATABASE, PGUSER and so on say.
//
// receive.js              effects in this database, exactly once
// receive.js elsewhere    effects elsewhere, at least once
'use strict'
const { Client, Query } = require('pg')

const QUEUE = 'mail'

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
    const call = client.query(new Query("CALL evtstore.wait_for_work(ARRAY[$1], '30s')", [QUEUE]))
    wake = () => new Client().cancel(client, call)
    call.on('end', () => resolve(!stopping))
    call.on('error', (error) => (error.code === '57014' ? resolve(!stopping) : reject(error))) // query_canceled
  }).finally(() => { wake = () => {} })
}

async function effect(client, { message_id, body }) {
  await client.query('INSERT INTO sent_mail (message_id, recipient, subject) VALUES ($1, $2, $3)',
    [message_id, body.to, body.subject])
}

// Claim, effect and ack are one transaction: all of it happens, or nothing.
async function work(client) {
  await client.query('BEGIN')
  const { rows } = await client.query('SELECT * FROM evtstore.receive($1, max_count => 10)', [QUEUE])
  const done = []
  for (const message of rows) {
    await client.query('SAVEPOINT message') // who fails undoes his own effect only
    try {
      await effect(client, message)
      done.push(message.receipt)
    } catch (error) {
      await client.query('ROLLBACK TO message')
      await client.query('SELECT evtstore.nack($1, $2)', [message.receipt, error.message])
    }
  }
  await client.query('SELECT evtstore.ack($1)', [done])
  await client.query('COMMIT')
}

async function effectElsewhere({ message_id, body }) {
  // what talks to another system; message_id tells it when a message comes a second time
  if (body.to === undefined) throw new Error('nobody to write to')
  console.log(message_id, body.to)
}

// No transaction is open during the effect.  Who dies between effect and ack has the message delivered again.
async function workElsewhere(client) {
  const { rows } = await client.query('SELECT * FROM evtstore.receive($1, max_count => 10)', [QUEUE])
  for (const message of rows) {
    try {
      // a heartbeat: those before it took their time; call it during a long effect too
      await client.query("SELECT evtstore.extend($1, '30s')", [message.receipt])
      await effectElsewhere(message)
      await client.query('SELECT evtstore.ack($1)', [message.receipt])
    } catch (error) {
      if (error.code === 'ST007') continue // stale: the lease was over, somebody else has it
      await client.query('SELECT evtstore.nack($1, $2)', [message.receipt, error.message])
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
      while (await wait(client)) {
        await work(client)
        pause = 0
      }
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
