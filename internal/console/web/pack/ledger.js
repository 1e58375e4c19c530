// The ledger: what was hashed and what was sent, in IndexedDB, so that a tab
// that was closed can resume. It contains names, sizes, dates and
// digests, but no keys and no contents of files. It is never ahead of the
// service, and the engine asks the service before it trusts the ledger.

import { DEFAULT_RECIPE } from './layout.js'
import { identify } from './identity.js'

/** @typedef {import('./identity.js').Identity} Identity */

/** The known leaves of an input: a digest for each, and a byte that
 * says whether the digest is known.
 * @typedef {{leaves: Uint8Array, done: Uint8Array, root: string|null}} Described */

/** Where shards go: an input can go to several places.
 * @typedef {{key: string, endpoint: string, limit: number}} Way */

/** The states of shards, a byte for each.
 * @typedef {{shards: Uint8Array, sentBytes: number, totalBytes: number}} Sent */

/** States of a shard. A shard whose upload began may have arrived or not. */
export const SHARD = Object.freeze({ waiting: 0, begun: 1, sent: 2 })

/** An unfinished upload.
 * @typedef {Identity & {root: string|null, endpoint: string, sentBytes: number, totalBytes: number, updated: Date}} Pending */

/** The ledger removes records that nobody has touched for this long. */
const maxAgeMs = 60 * 24 * 3600 * 1000

const stores = /** @type {const} */ (['inputs', 'described', 'sent'])

export class Ledger extends EventTarget {
  /** @param {IDBDatabase} db
   * @param {BroadcastChannel} channel to other tabs */
  constructor(db, channel) {
    super()
    this.#db = db
    this.#channel = channel
    channel.onmessage = () => this.dispatchEvent(new Event('change'))
    db.onversionchange = () => db.close()
  }

  #db
  #channel

  /** Opens the ledger of this browser.
   * @param {string} [name]
   * @returns {Promise<Ledger>} */
  static async open(name = 'carload-pack') {
    const opening = indexedDB.open(name, 1)
    opening.onupgradeneeded = () => {
      const db = opening.result
      db.createObjectStore('inputs', { keyPath: 'key' })
      db.createObjectStore('described')
      db.createObjectStore('sent', { keyPath: ['key', 'endpoint', 'limit'] })
    }
    const ledger = new Ledger(await result(opening), new BroadcastChannel(name))
    await ledger.#prune()
    return ledger
  }

  close() {
    this.#db.close()
    this.#channel.close()
  }

  /** The known leaves of an input.
   * @param {Identity} input
   * @returns {Promise<Described|null>} */
  async described({ key }) {
    return await result(this.#db.transaction('described').objectStore('described').get(key)) ?? null
  }

  /** @param {Identity} input
   * @param {Described} described */
  async keepDescribed(input, described) {
    await this.#write(['inputs', 'described'], (tx) => {
      tx.objectStore('inputs').put({ ...input, root: described.root, updated: Date.now() })
      tx.objectStore('described').put(described, input.key)
    })
  }

  /** What was sent to that place.
   * @param {Way} way
   * @returns {Promise<Sent|null>} */
  async sent({ key, endpoint, limit }) {
    return await result(this.#db.transaction('sent').objectStore('sent').get([key, endpoint, limit])) ?? null
  }

  /** @param {Way} way
   * @param {Sent} sent */
  async keepSent(way, sent) {
    await this.#write(['sent'], (tx) => tx.objectStore('sent').put({ ...way, ...sent, updated: Date.now() }))
  }

  /** The upload is done: forgets it, unless it is also going to
   * another place.
   * @param {Way} way */
  async finish({ key, endpoint, limit }) {
    await this.#write(stores, async (tx) => {
      const sent = tx.objectStore('sent')
      sent.delete([key, endpoint, limit])
      if (await result(sent.count(ofKey(key))) > 0) return
      tx.objectStore('inputs').delete(key)
      tx.objectStore('described').delete(key)
    })
  }

  /** Forgets an input.
   * @param {string} key */
  async forget(key) {
    await this.#write(stores, (tx) => {
      tx.objectStore('inputs').delete(key)
      tx.objectStore('described').delete(key)
      tx.objectStore('sent').delete(ofKey(key))
    })
  }

  /** Forgets everything. */
  async clear() {
    await this.#write(stores, (tx) => {
      for (const name of stores) tx.objectStore(name).clear()
    })
  }

  /** Unfinished uploads, the newest first.
   * @returns {Promise<Pending[]>} */
  async list() {
    const tx = this.#db.transaction(['inputs', 'sent'])
    const [inputs, sent] = await Promise.all([result(tx.objectStore('inputs').getAll()), result(tx.objectStore('sent').getAll())])
    const pending = inputs.flatMap((input) => {
      const ways = sent.filter((s) => s.key === input.key)
      const places = ways.length > 0 ? ways : [{ endpoint: '', sentBytes: 0, totalBytes: 0, updated: 0 }]
      return places.map(({ endpoint, sentBytes, totalBytes, updated }) => (
        { ...input, endpoint, sentBytes, totalBytes, updated: new Date(Math.max(updated, input.updated)) }))
    })
    return pending.sort((a, b) => b.updated.getTime() - a.updated.getTime())
  }

  /** The pending upload that an input resumes; null if there is none.
   * @param {import('./tree.js').Input} input
   * @param {import('./layout.js').Recipe} [recipe] */
  async matches(input, recipe = DEFAULT_RECIPE) {
    const { key } = identify(input, recipe)
    return (await this.list()).find((p) => p.key === key) ?? null
  }

  /** @param {readonly (typeof stores[number])[]} names
   * @param {(tx: IDBTransaction) => unknown} change */
  async #write(names, change) {
    const tx = this.#db.transaction(names, 'readwrite')
    const done = new Promise((resolve, reject) => {
      tx.oncomplete = () => resolve(undefined)
      tx.onabort = () => reject(tx.error)
    })
    await Promise.all([change(tx), done])
    this.#channel.postMessage(null)
    this.dispatchEvent(new Event('change'))
  }

  async #prune() {
    const old = Date.now() - maxAgeMs
    for (const { key, updated } of await this.list()) {
      if (updated.getTime() < old) await this.forget(key)
    }
  }
}

/** All records of an input in the store of what was sent.
 * @param {string} key */
function ofKey(key) {
  return IDBKeyRange.bound([key], [key, []])
}

/** @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>} */
function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(request.error)
  })
}
