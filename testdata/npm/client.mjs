// Runs the calls given on stdin as JSON through the NFT.Storage client and
// prints what each returned, in order: {value} or {error}.
import { readFile } from 'node:fs/promises'
import { NFTStorage, File, Blob } from 'nft.storage'
import { openPool, readJSON } from './pool.mjs'

const { endpoint, token, pool: path, calls } = await readJSON(process.stdin)
const pool = await openPool(path)
const client = new NFTStorage({ token, endpoint: new URL(endpoint) })

async function file (entry, options) {
  return new File([await pool.bytes(entry)], entry.path, options)
}

const methods = {
  async storeBlob ({ file }) {
    return client.storeBlob(new Blob([await pool.bytes(file)]))
  },
  async storeDirectory ({ tree }) {
    return client.storeDirectory(await Promise.all(tree.map(entry => file(entry))))
  },
  async storeCar ({ car, maxChunkSize }) {
    const chunks = []
    const cid = await client.storeCar(new Blob([await readFile(car)]), {
      maxChunkSize,
      maxRetries: 0,
      onStoredChunk: size => chunks.push(size)
    })
    return { cid, chunks }
  },
  async store ({ name, description, image, attachment }) {
    const token = await client.store({
      name,
      description,
      image: await file(image, { type: 'image/png' }),
      properties: { attachment: await file(attachment) }
    })
    return { ipnft: token.ipnft, url: token.url, data: token.data }
  },
  status: ({ cid }) => client.status(cid),
  check: ({ cid }) => client.check(cid),
  delete: ({ cid }) => client.delete(cid)
}

const results = []
for (const { method, ...args } of calls) {
  try {
    results.push({ value: await methods[method](args) })
  } catch (err) {
    results.push({ error: err.message })
  }
}
process.stdout.write(JSON.stringify(results))
