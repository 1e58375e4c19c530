// What a worker does: read pieces of files and hash their leaves. Only digests
// come out of it.

import { DIGEST_BYTES } from './cid.js'
import { SHA256 } from './sha256.js'

/** A range of a file whose leaves are to be hashed. It begins with a leaf.
 * @typedef {{file: Blob, from: number, to: number}} Piece */

/** What a worker is asked: the digests of leaves, or that of a whole blob.
 * @typedef {{id: number, pieces: Piece[], chunkBytes: number}|{id: number, blob: Blob}} Task */

/** What it answers. An error is about the piece of that number.
 * @typedef {{id: number, digests: Uint8Array}|{id: number, error: unknown, piece: number}} Answer */

/** The error of a file that has fewer bytes than it had. */
export class ShortRead extends Error {
  /** @param {number} want
   * @param {number} got */
  constructor(want, got) {
    super(`${got} bytes instead of ${want}`)
    this.name = 'ShortRead'
  }
}

/** @param {Task} task
 * @returns {Promise<Answer>} */
export async function work(task) {
  if ('blob' in task) {
    try {
      return { id: task.id, digests: await digestBlob(task.blob) }
    } catch (error) {
      return { id: task.id, error, piece: 0 }
    }
  }
  const { id, pieces, chunkBytes } = task
  const digests = new Uint8Array(pieces.reduce((n, p) => n + leavesOf(p, chunkBytes), 0) * DIGEST_BYTES)
  let at = 0
  for (let i = 0; i < pieces.length; i++) {
    try {
      at = await digestPiece(pieces[i], chunkBytes, digests, at)
    } catch (error) {
      return { id, error, piece: i }
    }
  }
  return { id, digests }
}

/** How many leaves a piece has; an empty file has one.
 * @param {Piece} piece
 * @param {number} chunkBytes */
export function leavesOf({ from, to }, chunkBytes) {
  return Math.max(1, Math.ceil((to - from) / chunkBytes))
}

/** @param {Piece} piece
 * @param {number} chunkBytes
 * @param {Uint8Array} digests
 * @param {number} at where the first digest goes */
async function digestPiece({ file, from, to }, chunkBytes, digests, at) {
  const data = await file.slice(from, to).arrayBuffer()
  if (data.byteLength !== to - from) throw new ShortRead(to - from, data.byteLength)
  for (let offset = 0; ; offset += chunkBytes) {
    const leaf = new Uint8Array(data, offset, Math.min(chunkBytes, data.byteLength - offset))
    digests.set(new Uint8Array(await crypto.subtle.digest('SHA-256', leaf)), at)
    at += DIGEST_BYTES
    if (offset + chunkBytes >= data.byteLength) return at
  }
}

/** @param {Blob} blob */
async function digestBlob(blob) {
  const hash = new SHA256()
  let length = 0
  const reader = blob.stream().getReader()
  for (let r = await reader.read(); !r.done; r = await reader.read()) {
    hash.update(r.value)
    length += r.value.length
  }
  if (length !== blob.size) throw new ShortRead(blob.size, length)
  return hash.digest()
}
