// Reads {pool, ranges: [{offset, length}]} and prints the version 2 piece CIDs of those ranges of a file, computed by @web3-storage/data-segment.
import { readFile } from 'node:fs/promises'
import { Piece } from '@web3-storage/data-segment'

let input = ''
for await (const chunk of process.stdin) input += chunk
const { pool, ranges } = JSON.parse(input)
const bytes = await readFile(pool)
const pieces = ranges.map(({ offset, length }) => {
  const { link, size } = Piece.fromPayload(bytes.subarray(offset, offset + length))
  return { cid: link.toString(), size: Number(size) }
})
console.log(JSON.stringify(pieces))
