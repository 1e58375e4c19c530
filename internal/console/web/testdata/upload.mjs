// Uploads what standard input names with the packing engine, under Node: a line
// of JSON for each upload, and one of its result for each on standard output.
import { openAsBlob } from 'node:fs'
import { createInterface } from 'node:readline'
import { PackError, Upload } from '../pack/index.js'

for await (const line of createInterface({ input: process.stdin })) {
  const { file, name, pause, cancel, ...options } = JSON.parse(line)
  const upload = new Upload({ name, file: await openAsBlob(file) }, { workers: 0, ...options })
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
    console.log(JSON.stringify({ code: err.code, message: err.message, status: err.status, phases: [...phases] }))
  }
}
