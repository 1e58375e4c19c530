// split CAR SIZE DIR: cuts an archive into shards with carbites' treewalk.
// join OUT SHARD…: reads shards with @ipld/car, checks each block's digest, and joins them with carbites.
// Both print JSON: split the names of the shards, join what it read of each shard.
import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { basename, join as joinPath } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { CarReader } from '@ipld/car'
import { TreewalkCarJoiner, TreewalkCarSplitter } from 'carbites/treewalk'

async function split (car, size, dir) {
  const splitter = await TreewalkCarSplitter.fromIterable(createReadStream(car), Number(size))
  const names = []
  for await (const shard of splitter.cars()) {
    const name = `${String(names.length).padStart(4, '0')}.car`
    await pipeline(Readable.from(shard), createWriteStream(joinPath(dir, name)))
    names.push(name)
  }
  return names
}

async function join (out, ...shards) {
  const readers = await Promise.all(shards.map(async path => CarReader.fromBytes(await readFile(path))))
  const read = []
  for (const [i, reader] of readers.entries()) {
    const roots = (await reader.getRoots()).map(String)
    const cids = []
    for await (const { cid, bytes } of reader.blocks()) {
      const digest = createHash('sha256').update(bytes).digest()
      if (!digest.equals(cid.multihash.digest)) throw new Error(`${shards[i]}: block ${cid} does not match its CID`)
      cids.push(cid.toString())
    }
    read.push({ name: basename(shards[i]), roots, cids })
  }
  await pipeline(Readable.from(new TreewalkCarJoiner(readers).car()), createWriteStream(out))
  return read
}

const [command, ...args] = process.argv.slice(2)
process.stdout.write(JSON.stringify(await { split, join }[command](...args)))
