// What the tests of the packing engine do in a page.
import { Ledger, Upload, describe, fromPicker } from './pack.js'

const ledger = await Ledger.open()

globalThis.pick = (id) => fromPicker(document.getElementById(id).files)

globalThis.roots = async (id) => Promise.all(pick(id).map(async (input) => (await describe(input, { maxShardBytes: 5_000_000 })).root))

/** Begins an upload; its end is in `ended`. */
globalThis.begin = (id, options) => {
  const [input] = pick(id)
  globalThis.upload = new Upload(input, { ledger, rate: null, backoffSeconds: 0.05, ...options })
  globalThis.seen = []
  upload.addEventListener('progress', ({ detail }) => {
    globalThis.seen.push({ phase: detail.phase, done: detail.done, total: detail.total })
    document.title = `${detail.phase} ${detail.shards.filter((s) => s.state === 'sent' || s.state === 'known').length}`
  })
  globalThis.ended = upload.run().then((result) => ({ result }), (err) => ({ code: err.code, message: err.message }))
}

globalThis.ledger = ledger
globalThis.ready = true
