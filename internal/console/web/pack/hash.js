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
  /** @type {{piece: Piece, number: number, at: number}[]} */
  const jobs = []
  let leaves = 0
  pieces.forEach((piece, number) => {
    jobs.push({ piece, number, at: leaves * DIGEST_BYTES })
    leaves += leavesOf(piece, chunkBytes)
  })
  const digests = new Uint8Array(leaves * DIGEST_BYTES)
  /** @type {Answer|null} */
  let failed = null
  const reader = async () => {
    for (let job = jobs.shift(); job && !failed; job = jobs.shift()) {
      try {
        await digestPiece(job.piece, chunkBytes, digests, job.at)
      } catch (error) {
        failed ??= { id, error, piece: job.number }
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(pieces.length, filesTogether) }, reader))
  return failed ?? { id, digests }
}

/** How many files are read at a time: a small one is all waiting. */
const filesTogether = 8

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
async function digestPiece(piece, chunkBytes, digests, at) {
  /** @type {Promise<void>[]} */
  const running = []
  for await (const leaf of leavesIn(piece, chunkBytes)) {
    // A digest is of a copy, so the next leaf is read while it is computed.
    const into = at
    running.push(crypto.subtle.digest('SHA-256', leaf).then((sum) => digests.set(new Uint8Array(sum), into)))
    at += DIGEST_BYTES
    if (running.length > together) await running.shift()
  }
  await Promise.all(running)
}

/** How many digests are computed while a leaf is read. */
const together = 2

/** The bytes of leaves, one after another, each in the place of the one before.
 * A stream into a buffer of ours is half as dear as slices in buffers of their
 * own, and leaves nothing behind that has to be collected.
 * @param {Piece} piece
 * @param {number} chunkBytes
 * @returns {AsyncGenerator<Uint8Array<ArrayBuffer>>} */
async function* leavesIn({ file, from, to }, chunkBytes) {
  const reader = to - from > chunkBytes ? byteReader(file.slice(from, to)) : null
  let buffer = new ArrayBuffer(reader ? chunkBytes : 0)
  for (let offset = from; ; offset += chunkBytes) {
    const size = Math.min(chunkBytes, to - offset)
    if (reader) {
      for (let got = 0; got < size; ) {
        const { value, done } = await reader.read(new Uint8Array(buffer, got, size - got))
        if (done) throw new ShortRead(size, got)
        buffer = value.buffer
        got += value.length
      }
    } else {
      // A slice is one more thing that the browser keeps a list of.
      buffer = await (size === file.size ? file : file.slice(offset, offset + size)).arrayBuffer()
      if (buffer.byteLength !== size) throw new ShortRead(size, buffer.byteLength)
    }
    yield new Uint8Array(buffer, 0, size)
    if (offset + chunkBytes >= to) return
  }
}

/** A reader that fills buffers of ours, where the browser has them.
 * @param {Blob} blob */
function byteReader(blob) {
  try {
    return blob.stream().getReader({ mode: 'byob' })
  } catch {
    return null
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
