// The files of a case are ranges of one pool of random bytes, written by the
// Go side. A range that reaches the end continues at the start.
import { readFile } from 'node:fs/promises'

export async function openPool (path) {
  return new Pool(await readFile(path))
}

class Pool {
  #bytes

  constructor (bytes) {
    this.#bytes = bytes
  }

  // A file in the form that all packers take: a name, a size and a stream.
  file ({ path = '', offset, size }) {
    const bytes = this.#bytes
    return {
      name: path,
      size,
      stream () {
        let at = 0
        return new ReadableStream({
          pull (controller) {
            if (at === size) return controller.close()
            const start = (offset + at) % bytes.length
            const end = Math.min(start + (1 << 20), bytes.length, start + size - at)
            at += end - start
            controller.enqueue(bytes.subarray(start, end))
          }
        })
      }
    }
  }

  async bytes (entry) {
    return new Response(this.file(entry).stream()).arrayBuffer()
  }
}

export async function readJSON (stream) {
  let text = ''
  for await (const part of stream) text += part
  return JSON.parse(text)
}
