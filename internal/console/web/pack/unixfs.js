// Nodes of files and directories: dag-pb with a UnixFS message, byte for
// byte as carload's chunker writes them. Links come first, in the order given.

import { CID_BYTES, cidBytes } from './cid.js'
import { Writer, varintSize } from './bytes.js'

const typeDirectory = 1
const typeFile = 2
const typeHAMTShard = 5
const murmur3x64 = 0x22

/** A link of a node. The CID is that of a raw block or of another node.
 * @typedef {object} Link
 * @property {boolean} raw
 * @property {Uint8Array} digest
 * @property {Uint8Array} name
 * @property {number} tsize bytes of all blocks under the link */

/** @param {number} nameBytes
 * @param {number} tsize */
function linkBody(nameBytes, tsize) {
  return 2 + CID_BYTES + 1 + varintSize(nameBytes) + nameBytes + 1 + varintSize(tsize)
}

/** The size of a link in a node.
 * @param {number} nameBytes
 * @param {number} tsize */
export function linkSize(nameBytes, tsize) {
  const body = linkBody(nameBytes, tsize)
  return 1 + varintSize(body) + body
}

/** @param {Writer} w
 * @param {Link} link */
function writeLink(w, link) {
  w.byte(0x12).varint(linkBody(link.name.length, link.tsize))
  w.field(1, cidBytes(link.raw, link.digest)).field(2, link.name).number(3, link.tsize)
}

/** @param {Iterable<Link>} links
 * @param {Uint8Array} message
 * @param {number} [size] of the node, if it is known */
function encodeNode(links, message, size) {
  const w = new Writer(size)
  for (const link of links) writeLink(w, link)
  return w.field(1, message).take()
}

/** An inner node of a file.
 * @param {Iterable<Link>} links
 * @param {Iterable<number>} sizes bytes of the file under each link
 * @param {number} content their sum
 * @param {number} size of the node */
export function encodeFile(links, sizes, content, size) {
  const message = new Writer().number(1, typeFile).number(3, content)
  for (const n of sizes) message.number(4, n)
  return encodeNode(links, message.take(), size)
}

/** The size of an inner node of a file.
 * @param {number} linkBytes of its links together
 * @param {number} sizeBytes of the varints of its sizes together, with a byte for each
 * @param {number} content */
export function fileNodeSize(linkBytes, sizeBytes, content) {
  const message = 2 + sizeBytes + 1 + varintSize(content)
  return linkBytes + 1 + varintSize(message) + message
}

/** A directory that is not a HAMT. Links are sorted by name.
 * @param {Iterable<Link>} links
 * @param {number} size of the node */
export function encodeDirectory(links, size) {
  return encodeNode(links, new Writer().number(1, typeDirectory).take(), size)
}

/** The size of a directory, from the size of its links.
 * @param {number} linkBytes */
export function directorySize(linkBytes) {
  return linkBytes + 4
}

export const FANOUT = 256

/** A node of a HAMT.
 * @param {Iterable<Link>} links sorted by bucket, their names with the bucket in front
 * @param {Uint8Array} bitmap a bit for each bucket, the lowest one last */
export function encodeShard(links, bitmap) {
  let from = 0
  while (from < bitmap.length && bitmap[from] === 0) from++
  const message = new Writer().number(1, typeHAMTShard).field(2, bitmap.subarray(from))
  return encodeNode(links, message.number(5, murmur3x64).number(6, FANOUT).take())
}
