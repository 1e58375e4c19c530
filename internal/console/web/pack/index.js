// The packing engine: a file or a folder becomes the DAG and the shards that
// carload's engine makes of it, without being held in memory, and goes to a
// service that speaks the API of NFT.Storage.

import { DAG } from './dag.js'
import { DEFAULT_RECIPE } from './layout.js'
import { Plan } from './plan.js'
import { Pool } from './pool.js'
import { describe as describeDAG } from './describe.js'

export { DEFAULT_RECIPE } from './layout.js'
export { DEFAULT_SHARD_BYTES } from './plan.js'
export { Ledger } from './ledger.js'
export { PackError } from './errors.js'
export { Upload } from './upload.js'
export { fromDrop, fromHandle, fromPicker } from './files.js'

/** Computes the root and the plan of an input, and sends nothing.
 * @param {import('./tree.js').Input} input
 * @param {object} [options]
 * @param {AbortSignal} [options.signal]
 * @param {(done: {bytes: number, files: number}) => void} [options.onprogress] called after each hashed part
 * @param {number} [options.workers]
 * @param {string|URL} [options.workerURL]
 * @param {import('./layout.js').Recipe} [options.recipe]
 * @param {number} [options.maxShardBytes] */
export async function describe(input, options = {}) {
  const dag = new DAG(input, options.recipe ?? DEFAULT_RECIPE)
  const pool = new Pool(options)
  try {
    await describeDAG(dag, pool, options)
  } finally {
    pool.close()
  }
  const plan = new Plan(dag, options.maxShardBytes)
  return { root: plan.root, bytes: dag.bytes, plan }
}
