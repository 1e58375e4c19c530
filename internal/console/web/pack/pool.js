// Workers that hash. Without workers, as in Node, this module hashes itself.

import { PackError } from './errors.js'
import { work } from './hash.js'

/** @typedef {import('./hash.js').Piece} Piece */
/** @typedef {import('./hash.js').Answer} Answer */
/** @typedef {(answer: Answer) => void} Waiter */
/** @typedef {{worker: Worker, waiting: Map<number, {resolve: Waiter, reject: (err: unknown) => void}>}} Member */

/** The error of a task: which of its pieces could not be read, and why. */
export class PieceError extends Error {
  /** @param {number} piece
   * @param {unknown} cause */
  constructor(piece, cause) {
    super(String(cause), { cause })
    this.piece = piece
  }
}

export class Pool {
  /** @type {Member[]} */
  #members = []
  #next = 0

  /** @param {{workers?: number, workerURL?: string|URL}} [options] */
  constructor({ workers, workerURL = new URL('./hash-worker.js', import.meta.url) } = {}) {
    const many = typeof Worker === 'undefined' ? 0 : workers ?? Math.min(8, globalThis.navigator?.hardwareConcurrency || 2)
    for (let i = 0; i < many; i++) this.#members.push(this.#start(workerURL))
    /** How many tasks to give out at a time: while one is hashed, the
     * next is read. */
    this.width = Math.max(1, 2 * many)
  }

  /** @param {string|URL} url
   * @returns {Member} */
  #start(url) {
    /** @type {Member} */
    const member = { worker: new Worker(url, { type: 'module' }), waiting: new Map() }
    member.worker.onmessage = ({ data }) => {
      member.waiting.get(data.id)?.resolve(data)
      member.waiting.delete(data.id)
    }
    member.worker.onerror = (e) => {
      e.preventDefault()
      for (const { reject } of member.waiting.values()) reject(new PackError('workers', { detail: e.message ?? '' }))
      member.waiting.clear()
    }
    return member
  }

  /** The digests of the leaves of pieces, side by side.
   * @param {Piece[]} pieces
   * @param {number} chunkBytes */
  leaves(pieces, chunkBytes) {
    return this.#run({ id: this.#next++, pieces, chunkBytes })
  }

  /** The digest of a blob of any size.
   * @param {Blob} blob */
  blob(blob) {
    return this.#run({ id: this.#next++, blob })
  }

  /** @param {import('./hash.js').Task} task */
  async #run(task) {
    const answer = await (this.#members.length > 0 ? this.#ask(task) : work(task))
    if ('error' in answer) throw new PieceError(answer.piece, answer.error)
    return answer.digests
  }

  /** @param {import('./hash.js').Task} task
   * @returns {Promise<Answer>} */
  #ask(task) {
    const member = this.#members.reduce((a, b) => (b.waiting.size < a.waiting.size ? b : a))
    return new Promise((resolve, reject) => {
      member.waiting.set(task.id, { resolve, reject })
      member.worker.postMessage(task)
    })
  }

  /** Ends the workers and drops their tasks. */
  close() {
    for (const { worker } of this.#members) worker.terminate()
    this.#members = []
  }
}
