// The DAG of an input: the digest of every block, and where its bytes are. It
// holds no payload. Blocks are listed depth first, parents before children,
// each CID once, as carload's engine lists them.

import { DIGEST_BYTES, cidBytes, cidText } from './cid.js'
import { compareBytes } from './bytes.js'
import { directorySize, encodeDirectory, linkSize } from './unixfs.js'
import { encodeHAMT, shapeHAMT } from './hamt.js'
import { makeTree } from './tree.js'
import { PackError, throwIfAborted } from './errors.js'

/** @typedef {import('./tree.js').Node} Node */
/** @typedef {import('./tree.js').FileNode} FileNode */
/** @typedef {import('./tree.js').DirNode} DirNode */
/** @typedef {import('./hamt.js').Shard} Shard */

/** A block: its owner, and which block of a file it is.
 * @typedef {object} Ref
 * @property {Node|Shard} owner
 * @property {number} number of a file's node
 * @property {number} depth links between the root and this block */

/** The greatest depth that all readers support, in links. */
const maxDepth = 512

/** How many digests of directories are computed at a time. */
const together = 256

export class DAG {
  /** @param {import('./tree.js').Input} input
   * @param {import('./layout.js').Recipe} recipe */
  constructor(input, recipe) {
    this.recipe = recipe
    const { root, files, leaves, bytes } = makeTree(input, recipe)
    this.rootNode = root
    this.files = files
    /** Bytes of all files. */
    this.bytes = bytes
    /** Digests of the leaves of all files, to be filled in while hashing. */
    this.leaves = new Uint8Array(leaves * DIGEST_BYTES)
    /** @type {Ref[]} the blocks, once build has run */
    this.blocks = []
  }

  /** Builds all nodes from the digests of the leaves.
   * @param {AbortSignal} [signal] */
  async build(signal) {
    for (const file of this.files) {
      throwIfAborted(signal)
      await this.#buildFile(file)
    }
    await this.#buildDirectory(this.rootNode, signal)
    this.#list()
  }

  /** @param {FileNode} file */
  async #buildFile(file) {
    const { layout } = file
    file.inner = new Uint8Array(layout.inner.length * DIGEST_BYTES)
    for (let i = layout.leaves; i < layout.nodes; i++) {
      file.inner.set(await sha256(layout.encode(i, (n) => this.#fileDigest(file, n))), (i - layout.leaves) * DIGEST_BYTES)
    }
  }

  /** @param {Node} node
   * @param {AbortSignal} [signal] */
  async #buildDirectory(node, signal) {
    if (node.kind === 'file') return
    throwIfAborted(signal)
    for (const child of node.children) {
      if (child.kind === 'directory') await this.#buildDirectory(child, signal)
    }
    node.children.sort((a, b) => compareBytes(a.name, b.name))
    let links = 0
    let tsize = 0
    for (const child of node.children) {
      const t = this.#tsize(child)
      links += linkSize(child.name.length, t)
      tsize += t
    }
    node.size = directorySize(links)
    if (node.size > this.recipe.hamtBytes) {
      node.shard = shapeHAMT(node.children)
      await this.#buildShards(node.shard)
      node.digest = node.shard.digest
      node.tsize = node.shard.tsize
      return
    }
    node.tsize = tsize + node.size
    node.digest = await sha256(this.#encodeFlat(node))
  }

  /** Builds a HAMT, the deepest shards first, many of the same depth at a time.
   * @param {Shard} root */
  async #buildShards(root) {
    /** @type {Shard[][]} */
    const levels = [[root]]
    for (let level = levels[0]; level.length > 0; level = levels[levels.length - 1]) {
      levels.push(level.flatMap((s) => s.links.filter((to) => to.kind === 'shard')))
    }
    for (const level of levels.reverse()) {
      for (let i = 0; i < level.length; i += together) {
        await Promise.all(level.slice(i, i + together).map(async (shard) => {
          const block = this.#encodeShard(shard)
          shard.size = block.length
          shard.tsize = block.length + shard.links.reduce((sum, to) => sum + this.#tsize(to), 0)
          shard.digest = await sha256(block)
        }))
      }
    }
  }

  /** @param {DirNode} dir */
  #encodeFlat(dir) {
    return encodeDirectory(dir.children.map((child) => ({ ...this.#target(child), name: child.name })), dir.size)
  }

  /** @param {Shard} shard */
  #encodeShard(shard) {
    return encodeHAMT(shard, (to) => this.#target(to))
  }

  /** A link to a node, except for the name.
   * @param {Node|Shard} to */
  #target(to) {
    const number = this.#rootNumber(to)
    return { raw: this.#raw(to, number), digest: this.#digest(to, number), tsize: this.#tsize(to) }
  }

  /** @param {Node|Shard} owner */
  #tsize(owner) {
    return owner.kind === 'file' ? owner.layout.span(owner.layout.root).tsize : owner.tsize
  }

  /** @param {FileNode} file
   * @param {number} node */
  #fileDigest(file, node) {
    const { leaves } = file.layout
    const [digests, i] = node < leaves ? [this.leaves, file.firstLeaf + node] : [file.inner, node - leaves]
    return digests.subarray(i * DIGEST_BYTES, (i + 1) * DIGEST_BYTES)
  }

  /** @param {Node|Shard} owner
   * @param {number} number */
  #digest(owner, number) {
    return owner.kind === 'file' ? this.#fileDigest(owner, number) : owner.digest
  }

  /** @param {Node|Shard} owner
   * @param {number} number */
  #raw(owner, number) {
    return owner.kind === 'file' && owner.layout.raw(number)
  }

  /** Determines the order of the blocks, and leaves out repeated ones. */
  #list() {
    /** @type {Set<string>} */
    const seen = new Set()
    /** @type {Ref[]} a stack, the next block last */
    const stack = [{ owner: this.rootNode, number: this.#rootNumber(this.rootNode), depth: 0 }]
    this.blocks = []
    for (let ref = stack.pop(); ref; ref = stack.pop()) {
      const key = String.fromCharCode(this.#raw(ref.owner, ref.number) ? 1 : 0, ...this.#digest(ref.owner, ref.number))
      if (seen.has(key)) continue // its children are not new either
      seen.add(key)
      if (ref.depth > maxDepth) throw new PackError('deep', { path: this.files[0]?.path ?? '', limit: maxDepth })
      this.blocks.push(ref)
      const children = this.#children(ref)
      for (let i = children.length - 1; i >= 0; i--) stack.push(children[i])
    }
  }

  /** @param {Node|Shard} owner */
  #rootNumber(owner) {
    return owner.kind === 'file' ? owner.layout.root : 0
  }

  /** @param {Ref} ref
   * @returns {Ref[]} */
  #children({ owner, number, depth }) {
    if (owner.kind === 'file') {
      if (owner.layout.raw(number)) return []
      const { from, to } = owner.layout.inner[number - owner.layout.leaves]
      return Array.from({ length: to - from }, (_, i) => ({ owner, number: from + i, depth: depth + 1 }))
    }
    const below = owner.kind === 'shard' ? owner.links : owner.shard ? owner.shard.links : owner.children
    return below.map((o) => ({ owner: o, number: this.#rootNumber(o), depth: depth + 1 }))
  }

  /** The CID of a block in binary.
   * @param {Ref} ref */
  cid({ owner, number }) {
    return cidBytes(this.#raw(owner, number), this.#digest(owner, number))
  }

  /** The CID of the DAG as text. */
  get root() {
    return cidText(this.cid(this.blocks[0]))
  }

  /** The size of a block.
   * @param {Ref} ref */
  size({ owner, number }) {
    if (owner.kind === 'file') return owner.layout.span(number).block
    return owner.kind === 'directory' && owner.shard ? owner.shard.size : owner.size
  }

  /** The bytes of a block: a slice of a file if it is a leaf.
   * @param {Ref} ref
   * @returns {Uint8Array|Blob} */
  content({ owner, number }) {
    if (owner.kind === 'file') {
      const { layout, file } = owner
      if (layout.nodes === 1) return file
      if (layout.raw(number)) return file.slice(layout.start(number), layout.start(number + 1))
      return layout.encode(number, (n) => this.#fileDigest(owner, n))
    }
    if (owner.kind === 'shard') return this.#encodeShard(owner)
    return owner.shard ? this.#encodeShard(owner.shard) : this.#encodeFlat(owner)
  }
}

/** @param {Uint8Array} p */
async function sha256(p) {
  return new Uint8Array(await crypto.subtle.digest('SHA-256', /** @type {Uint8Array<ArrayBuffer>} */ (p)))
}
