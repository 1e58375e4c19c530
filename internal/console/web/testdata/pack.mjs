// Packs inputs from standard input with the packing engine, in Node: a line of
// JSON for each case, and a line with its root and shards on standard output.
import { openAsBlob } from 'node:fs'
import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'
import { DAG } from '../pack/dag.js'
import { PackError } from '../pack/errors.js'
import { Plan } from '../pack/plan.js'
import { Pool } from '../pack/pool.js'
import { describe } from '../pack/describe.js'

const pool = new Pool()
for await (const line of createInterface({ input: process.stdin })) {
  const { recipe, limit, file, entries } = JSON.parse(line)
  try {
    const input = file !== undefined
      ? { name: 'file', file: await openAsBlob(file) }
      : { name: 'folder', entries: entries.map(({ path, data }) => ({ path, file: data === undefined ? null : new Blob([Buffer.from(data, 'base64')]) })) }
    const dag = new DAG(input, recipe)
    await describe(dag, pool, {})
    const plan = new Plan(dag, limit)
    const shards = []
    for (const [i, { size }] of plan.shards.entries()) {
      const body = plan.body(i)
      const hash = createHash('sha256')
      for await (const piece of body.stream()) hash.update(piece)
      const sha256 = hash.digest('hex')
      const streamed = Buffer.from(await pool.blob(body)).toString('hex')
      if (body.size !== size || streamed !== sha256) throw new Error(`shard ${i}: planned ${size}, has ${body.size} bytes; digests ${sha256} and ${streamed}`)
      shards.push({ size, sha256 })
    }
    console.log(JSON.stringify({ root: plan.root, bytes: dag.bytes, shards }))
  } catch (err) {
    if (!(err instanceof PackError)) throw err
    console.log(JSON.stringify({ error: err.code, message: err.message }))
  }
}
