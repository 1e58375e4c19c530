// A worker reads pieces of files and hashes their leaves. It returns only
// digests.

import { DIGEST_BYTES } from './cid.js'
import { SHA256 } from './sha256.js'

/** A range of a file to hash. It begins at a leaf.
 * @typedef {{file: Blob, from: number, to: number}} Piece */

/** A task for a worker: the digests of leaves, or that of a whole blob.
 * @typedef {{id: number, pieces: Piece[], chunkBytes: number}|{id: number, blob: Blob}} Task */

/** Its answer. An error names the piece by its number.
 * @typedef {{id: number, digests: Uint8Array}|{id: number, error: unknown, piece: number}} Answer */

/** The error for a file that has become shorter. */
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

/** How many files are read at a time: reading a small one is mostly waiting. */
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
    // WebCrypto hashes a copy, so the next leaf can be read meanwhile.
    const into = at
    running.push(crypto.subtle.digest('SHA-256', leaf).then((sum) => digests.set(new Uint8Array(sum), into)))
    at += DIGEST_BYTES
    if (running.length > together) await running.shift()
  }
  await Promise.all(running)
}

/** How many digests are computed while a leaf is read. */
const together = 2

/** The bytes of leaves, one after another, in the same buffer.
 * Streaming into one buffer costs half as much as slices with their own
 * buffers, and leaves no garbage.
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
      // The browser keeps a list of slices.
      buffer = await (size === file.size ? file : file.slice(offset, offset + size)).arrayBuffer()
      if (buffer.byteLength !== size) throw new ShortRead(size, buffer.byteLength)
    }
    yield new Uint8Array(buffer, 0, size)
    if (offset + chunkBytes >= to) return
  }
}

/** A reader that fills our buffers, if the browser has such readers.
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
