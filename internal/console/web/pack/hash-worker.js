// A worker of the pool: tasks come in, digests go out.

import { work } from './hash.js'

/** @type {{onmessage: ((e: MessageEvent<import('./hash.js').Task>) => void)|null, postMessage(message: unknown): void}} */
const worker = /** @type {any} */ (globalThis)

worker.onmessage = async (e) => {
  worker.postMessage(await work(e.data))
}
