// The shape of the DAG of a file. Everything except the digests follows from the
// size of the file: where each leaf begins, which nodes there are, how many
// bytes each of them takes.

import { encodeFile, fileNodeSize, linkSize } from './unixfs.js'
import { varintSize } from './bytes.js'

/** A recipe for CIDs. Its numbers are those of a profile of carload; leaves are
 * raw blocks, digests are SHA-256, CIDs have version 1.
 * @typedef {object} Recipe
 * @property {number} chunkBytes payload of a leaf
 * @property {number} width links of an inner node of a file
 * @property {number} hamtBytes a directory whose block has more bytes becomes a HAMT */

/** carload's default profile, unixfs-v1-2025.
 * @type {Recipe} */
export const DEFAULT_RECIPE = Object.freeze({ chunkBytes: 1 << 20, width: 1024, hamtBytes: 256 << 10 })

/** The recipe as a part of keys in the ledger.
 * @param {Recipe} recipe */
export function recipeText(recipe) {
  return `size-${recipe.chunkBytes}+width-${recipe.width}+hamt-block-bytes>${recipe.hamtBytes}`
}

/** The part of a file under a node.
 * @typedef {object} Span
 * @property {number} content bytes of the file
 * @property {number} block bytes of the node's own block
 * @property {number} tsize bytes of all blocks */

/** An inner node, which links to the nodes from..to.
 * @typedef {Span & {from: number, to: number}} Inner */

const noName = new Uint8Array(0)

/** A layout. Nodes are numbered: leaves first, in the order of the file, then
 * inner nodes, children before parents, the root last. */
export class Layout {
  /** @param {Recipe} recipe
   * @param {number} size */
  constructor(recipe, size) {
    this.chunkBytes = recipe.chunkBytes
    this.size = size
    this.leaves = Math.max(1, Math.ceil(size / recipe.chunkBytes))
    /** @type {Inner[]} */
    this.inner = []
    // Every group becomes a node, even a last group of one.
    for (let from = 0, to = this.leaves; to - from > 1; from = to, to = this.nodes) {
      for (let i = from; i < to; i += recipe.width) this.#add(i, Math.min(i + recipe.width, to))
    }
  }

  get nodes() {
    return this.leaves + this.inner.length
  }

  get root() {
    return this.nodes - 1
  }

  /** @param {number} from
   * @param {number} to */
  #add(from, to) {
    let content = 0
    let tsize = 0
    let links = 0
    let sizes = 0
    for (let i = from; i < to; i++) {
      const child = this.span(i)
      content += child.content
      tsize += child.tsize
      links += linkSize(0, child.tsize)
      sizes += 1 + varintSize(child.content)
    }
    const block = fileNodeSize(links, sizes, content)
    this.inner.push({ from, to, content, block, tsize: tsize + block })
  }

  /** Where a leaf begins in the file.
   * @param {number} leaf */
  start(leaf) {
    return Math.min(leaf * this.chunkBytes, this.size)
  }

  /** @param {number} node
   * @returns {Span} */
  span(node) {
    if (node >= this.leaves) return this.inner[node - this.leaves]
    const n = this.start(node + 1) - this.start(node)
    return { content: n, block: n, tsize: n }
  }

  /** @param {number} node */
  raw(node) {
    return node < this.leaves
  }

  /** The block of an inner node.
   * @param {number} node
   * @param {(node: number) => Uint8Array} digest of each node under it */
  encode(node, digest) {
    const { from, to, content, block } = this.inner[node - this.leaves]
    const links = []
    const sizes = []
    for (let i = from; i < to; i++) {
      const child = this.span(i)
      links.push({ raw: this.raw(i), digest: digest(i), name: noName, tsize: child.tsize })
      sizes.push(child.content)
    }
    return encodeFile(links, sizes, content, block)
  }
}
