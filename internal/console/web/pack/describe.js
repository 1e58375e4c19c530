// The first phase reads and hashes every byte once, and keeps 32 bytes of each
// leaf.

import { DAG } from './dag.js'
import { DIGEST_BYTES } from './cid.js'
import { PieceError } from './pool.js'
import { leavesOf } from './hash.js'
import { readError, throwIfAborted } from './errors.js'

/** @typedef {import('./hash.js').Piece} Piece */
/** @typedef {import('./pool.js').Pool} Pool */

/** The most that a worker gets at a time, in bytes and in files. */
const taskBytes = 32 << 20
const taskPieces = 64

/** A part of the leaves of all files.
 * @typedef {{pieces: Piece[], paths: string[], first: number, count: number, bytes: number, files: number}} Run */

/** Cuts the leaves of all files into runs.
 * @param {DAG} dag
 * @returns {Generator<Run>} */
function* runs(dag) {
  const { chunkBytes } = dag.recipe
  const most = Math.max(1, Math.floor(taskBytes / chunkBytes)) * chunkBytes
  /** @type {Run} */
  let run = { pieces: [], paths: [], first: 0, count: 0, bytes: 0, files: 0 }
  for (const { file, path } of dag.files) {
    for (let from = 0; ; from += most) {
      const piece = { file, from, to: Math.min(from + most, file.size) }
      if (run.count > 0 && (run.bytes + piece.to - piece.from > most || run.pieces.length === taskPieces)) {
        yield run
        run = { pieces: [], paths: [], first: run.first + run.count, count: 0, bytes: 0, files: 0 }
      }
      run.pieces.push(piece)
      run.paths.push(path)
      run.count += leavesOf(piece, chunkBytes)
      run.bytes += piece.to - piece.from
      if (piece.to === file.size) {
        run.files++
        break
      }
    }
  }
  if (run.count > 0) yield run
}

/** Hashes the leaves of a DAG, and builds it.
 * @param {DAG} dag
 * @param {Pool} pool
 * @param {object} options
 * @param {AbortSignal} [options.signal]
 * @param {Uint8Array} [options.done] a byte for each leaf, 1 if its digest is there
 * @param {() => Promise<void>|void} [options.gate] awaited before each run
 * @param {(run: {bytes: number, files: number}) => void} [options.onprogress] called after each run */
export async function describe(dag, pool, { signal, done = new Uint8Array(dag.leaves.length / DIGEST_BYTES), gate, onprogress }) {
  const all = runs(dag)
  const failed = new AbortController()
  const worker = async () => {
    for (;;) {
      await gate?.()
      throwIfAborted(signal)
      if (failed.signal.aborted) return
      const { value: run } = all.next()
      if (!run) return
      const marks = done.subarray(run.first, run.first + run.count)
      if (!marks.every((m) => m === 1)) {
        try {
          dag.leaves.set(await pool.leaves(run.pieces, dag.recipe.chunkBytes), run.first * DIGEST_BYTES)
        } catch (err) {
          throw err instanceof PieceError ? readError(err.cause, run.paths[err.piece]) : err
        }
        marks.fill(1)
      }
      onprogress?.(run)
    }
  }
  await Promise.all(Array.from({ length: pool.width }, () => worker().catch((err) => {
    failed.abort()
    throw err
  })))
  throwIfAborted(signal)
  await dag.build(signal)
}
