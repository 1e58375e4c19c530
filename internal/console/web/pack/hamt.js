// Directories that are too big for one block are HAMTs: trees of nodes in which
// the hash of a name determines its place. The shape depends on the names alone,
// so there are no insertions: this module sorts the names by hash and splits them.

import { PackError } from './errors.js'
import { compareBytes, utf8 } from './bytes.js'
import { FANOUT, encodeShard } from './unixfs.js'
import { nameHash } from './murmur3.js'

/** @typedef {import('./tree.js').Node} Node */

/** A node of a HAMT. Its links are sorted by bucket: each points to an entry of
 * the directory, or to a shard below.
 * @typedef {object} Shard
 * @property {'shard'} kind
 * @property {Uint8Array} buckets
 * @property {(Node|Shard)[]} links
 * @property {Uint8Array} digest
 * @property {number} size of its block
 * @property {number} tsize */

/** @typedef {{node: Node, hash: Uint8Array}} Hashed */

const prefixes = Array.from({ length: FANOUT }, (_, i) => utf8(i.toString(16).toUpperCase().padStart(2, '0')))

/** The shape of the HAMT of a directory, without digests.
 * @param {Node[]} children
 * @returns {Shard} */
export function shapeHAMT(children) {
  const entries = children.map((node) => ({ node, hash: nameHash(node.name) }))
  entries.sort((a, b) => compareBytes(a.hash, b.hash))
  for (let i = 1; i < entries.length; i++) {
    const [a, b] = [entries[i - 1], entries[i]]
    if (compareBytes(a.hash, b.hash) === 0) throw new PackError('collision', { path: a.node.path, other: b.node.path })
  }
  return shape(entries, 0, entries.length, 0)
}

/** @param {Hashed[]} entries
 * @param {number} from
 * @param {number} to
 * @param {number} level
 * @returns {Shard} */
function shape(entries, from, to, level) {
  const buckets = []
  const links = []
  for (let i = from; i < to; ) {
    const bucket = entries[i].hash[level]
    let end = i + 1
    while (end < to && entries[end].hash[level] === bucket) end++
    buckets.push(bucket)
    links.push(end === i + 1 ? entries[i].node : shape(entries, i, end, level + 1))
    i = end
  }
  return { kind: 'shard', buckets: Uint8Array.from(buckets), links, digest: new Uint8Array(0), size: 0, tsize: 0 }
}

/** The block of a node of a HAMT whose links have digests.
 * @param {Shard} shard
 * @param {(to: Node|Shard) => Omit<import('./unixfs.js').Link, 'name'>} target of a link */
export function encodeHAMT(shard, target) {
  const bitmap = new Uint8Array(FANOUT / 8)
  const links = shard.links.map((to, i) => {
    const bucket = shard.buckets[i]
    bitmap[bitmap.length - 1 - (bucket >> 3)] |= 1 << (bucket & 7)
    const entry = to.kind === 'shard' ? new Uint8Array(0) : to.name
    const name = new Uint8Array(2 + entry.length)
    name.set(prefixes[bucket])
    name.set(entry, 2)
    return { ...target(to), name }
  })
  return encodeShard(links, bitmap)
}
