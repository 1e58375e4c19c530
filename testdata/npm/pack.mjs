// Packs the cases given on stdin as JSON with the clients' own packers, and
// prints the root of each, in order.
import * as ipfsCar from 'ipfs-car'
import * as ipfsCar1 from 'ipfs-car-1'
import { NFTStorage } from 'nft.storage'
import { openPool, readJSON } from './pool.mjs'

// nft.storage packs into this; its own blockstore has a file for each block.
class MemoryBlockstore {
  #blocks = new Map()

  async put (cid, bytes) {
    this.#blocks.set(cid.toString(), bytes)
    return cid
  }

  async get (cid) {
    const bytes = this.#blocks.get(cid.toString())
    if (!bytes) throw new Error(`missing block ${cid}`)
    return bytes
  }

  async has (cid) {
    return this.#blocks.has(cid.toString())
  }
}

// The root is the last block that ipfs-car writes.
async function last (blocks) {
  let root
  await blocks.pipeTo(new WritableStream({ write (block) { root = block.cid } }))
  return root
}

const packers = {
  'ipfs-car': {
    file: f => last(ipfsCar.createFileEncoderStream(f)),
    tree: files => last(ipfsCar.createDirectoryEncoderStream(files))
  },
  'ipfs-car-1': {
    file: f => last(ipfsCar1.createFileEncoderStream(f)),
    tree: files => last(ipfsCar1.createDirectoryEncoderStream(files))
  },
  'nft.storage': {
    file: async f => (await NFTStorage.encodeBlob(f, { blockstore: new MemoryBlockstore() })).cid,
    tree: async files => (await NFTStorage.encodeDirectory(files, { blockstore: new MemoryBlockstore() })).cid
  }
}

const { pool: path, cases } = await readJSON(process.stdin)
const pool = await openPool(path)
const roots = []
for (const { packer, file, tree } of cases) {
  const cid = file
    ? await packers[packer].file(pool.file(file))
    : await packers[packer].tree(tree.map(entry => pool.file(entry)))
  roots.push(cid.toString())
}
process.stdout.write(JSON.stringify(roots))
