// Uploads inputs from standard input with the packing engine, in Node: a line
// of JSON for each upload, and a line with its result on standard output.
import { copyFileSync, openAsBlob } from 'node:fs'
import { createInterface } from 'node:readline'
import { PackError, Upload } from '../pack/index.js'

/** A ledger in memory, for all uploads here. */
class Memory {
  digests = new Map()
  shards = new Map()
  described = async ({ key }) => this.digests.get(key) ?? null
  kept = () => {}
  keepDescribed = async ({ key }, described) => {
    this.digests.set(key, structuredClone(described))
    this.kept()
  }
  sent = async (way) => this.shards.get(JSON.stringify(way)) ?? null
  keepSent = async (way, sent) => { this.shards.set(JSON.stringify(way), sent) }
  finish = async ({ key }) => { this.digests.delete(key) }
  forget = async (key) => { this.digests.delete(key) }
}

const memory = new Memory()
for await (const line of createInterface({ input: process.stdin })) {
  const { file, name, pause, cancel, content, stopHashing, remember, ...options } = JSON.parse(line)
  if (content) copyFileSync(content, file)
  const upload = new Upload({ name, file: await openAsBlob(file) }, { workers: 0, ledger: remember ? memory : null, ...options })
  memory.kept = stopHashing ? () => upload.cancel() : () => {} // while most of it is not hashed yet
  const phases = new Set()
  let pauses = 0
  let most = 0
  upload.addEventListener('progress', ({ detail }) => {
    phases.add(detail.phase)
    if (detail.phase === 'sending') most = Math.max(most, detail.shards.filter((s) => s.state === 'sending').length)
    const sent = detail.shards.filter((s) => s.state === 'sent').length
    if (cancel !== undefined && sent >= cancel) upload.cancel()
    if (pause !== undefined && pauses === 0 && sent >= pause) {
      pauses++
      upload.pause()
      setImmediate(() => upload.resume())
    }
  })
  try {
    const result = await upload.run()
    const { done, total, left, error, shards } = upload.progress
    console.log(JSON.stringify({ result, phases: [...phases], pauses, most, done, total, left, error, tries: shards.reduce((n, s) => n + s.tries, 0) }))
  } catch (err) {
    if (!(err instanceof PackError)) throw err
    console.log(JSON.stringify({ code: err.code, message: err.message, status: err.status, phases: [...phases], hashed: [...memory.digests.values()].map(({ done }) => done.reduce((n, d) => n + d, 0)) }))
  }
}
