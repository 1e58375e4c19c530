// The packing engine: a file or a folder becomes the DAG and the shards that
// carload's engine makes of it, without being held in memory.

export { DAG } from './dag.js'
export { DEFAULT_RECIPE } from './layout.js'
export { DEFAULT_SHARD_BYTES, Plan } from './plan.js'
export { PackError } from './errors.js'
export { Pool } from './pool.js'
export { describe } from './describe.js'
