// A plan assigns the blocks of a DAG to shards: archives that a
// service accepts in one request each. Every shard has the root and the path
// to its first new block, so that it stands on its own, and then new blocks,
// depth first, up to a limit of bytes that counts every byte sent. The rules are
// those of carload's splitter: same blocks, same limit, same shards.

import { CID_BYTES } from './cid.js'
import { PackError } from './errors.js'
import { Writer, varintSize } from './bytes.js'

/** @typedef {import('./dag.js').DAG} DAG */

/** A limit that services with a limit of "100 MB" accept, whichever unit they mean. */
export const DEFAULT_SHARD_BYTES = 100_000_000

/** An archive: the blocks of path, then those from first to before end.
 * @typedef {object} PlannedShard
 * @property {number[]} path
 * @property {number} first
 * @property {number} end
 * @property {number} size in bytes, exactly as sent */

/** @param {number} n payload bytes */
function sectionSize(n) {
  return varintSize(CID_BYTES + n) + CID_BYTES + n
}

/** The header of an archive with one root.
 * @param {Uint8Array} root */
function header(root) {
  const cbor = new Writer().byte(0xa2)
  cbor.byte(0x65).bytes(ascii('roots')).byte(0x81).byte(0xd8).byte(0x2a).byte(0x58).byte(1 + root.length).byte(0).bytes(root)
  cbor.byte(0x67).bytes(ascii('version')).byte(1)
  return new Writer().varint(cbor.length).bytes(cbor.take()).take()
}

/** @param {string} text */
function ascii(text) {
  return Uint8Array.from(text, (c) => c.charCodeAt(0))
}

export class Plan {
  /** @param {DAG} dag that was built
   * @param {number} [limit] of the bytes of a shard */
  constructor(dag, limit = DEFAULT_SHARD_BYTES) {
    this.dag = dag
    this.limit = limit
    /** @type {PlannedShard[]} */
    this.shards = []
    this.#header = header(dag.cid(dag.blocks[0]))
    this.#split()
    /** Bytes of all shards. */
    this.bytes = this.shards.reduce((sum, s) => sum + s.size, 0)
  }

  #header

  get root() {
    return this.dag.root
  }

  #split() {
    /** @type {{index: number, size: number}[]} ancestors of the block at hand */
    const path = []
    /** @type {PlannedShard} */
    let cur = { path: [], first: 0, end: 0, size: this.#header.length }
    this.dag.blocks.forEach((block, i) => {
      const size = sectionSize(this.dag.size(block))
      path.length = Math.min(block.depth, path.length)
      if (cur.size + size > this.limit) {
        // Services refuse a shard with only the root, so the second
        // block must fit beside the root.
        if (cur.end > cur.first && i > 1) {
          this.shards.push(cur)
          cur = { path: path.map((a) => a.index), first: i, end: i, size: path.reduce((sum, a) => sum + a.size, this.#header.length) }
        }
        if (cur.size + size > this.limit) throw new PackError('block-too-large', { limit: this.limit })
      }
      cur.size += size
      cur.end = i + 1
      path.push({ index: i, size })
    })
    this.shards.push(cur)
  }

  /** The files whose leaves are in a shard.
   * @param {number} i */
  files(i) {
    const { first, end } = this.shards[i]
    /** @type {Set<import('./tree.js').FileNode>} */
    const files = new Set()
    for (const { owner } of this.dag.blocks.slice(first, end)) {
      if (owner.kind === 'file') files.add(owner)
    }
    return [...files]
  }

  /** The bytes of a shard, as a recipe: parts of files stay on disk until the shard
   * is read.
   * @param {number} i
   * @returns {Blob} */
  body(i) {
    const { path, first, end } = this.shards[i]
    /** @type {(Uint8Array<ArrayBuffer>|Blob)[]} */
    const pieces = []
    const w = new Writer(1 << 10).bytes(this.#header)
    /** @param {number} index */
    const add = (index) => {
      const block = this.dag.blocks[index]
      w.varint(CID_BYTES + this.dag.size(block)).bytes(this.dag.cid(block))
      const content = this.dag.content(block)
      if (content instanceof Uint8Array) {
        w.bytes(content)
      } else if (content.size > 0) {
        pieces.push(w.take(), content)
      }
    }
    for (const index of path) add(index)
    for (let index = first; index < end; index++) add(index)
    if (w.length > 0) pieces.push(w.take())
    return new Blob(pieces, { type: 'application/car' })
  }
}
