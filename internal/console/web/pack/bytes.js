// Bytes for the formats below: varints, protobuf fields, and a buffer
// that grows.

/** How many bytes a varint of n takes. n may be beyond 32 bits.
 * @param {number} n */
export function varintSize(n) {
  let size = 1
  for (; n >= 0x80; n = Math.floor(n / 0x80)) size++
  return size
}

/** A buffer that grows as bytes are written. */
export class Writer {
  #buf
  #length = 0

  /** @param {number} [capacity] the number of bytes, if known */
  constructor(capacity = 256) {
    this.#buf = new Uint8Array(capacity)
  }

  get length() {
    return this.#length
  }

  /** @param {number} n */
  #reserve(n) {
    const need = this.#length + n
    if (need > this.#buf.length) {
      const buf = new Uint8Array(Math.max(need, 2 * this.#buf.length))
      buf.set(this.#buf.subarray(0, this.#length))
      this.#buf = buf
    }
  }

  /** @param {number} b */
  byte(b) {
    this.#reserve(1)
    this.#buf[this.#length++] = b
    return this
  }

  /** @param {Uint8Array} p */
  bytes(p) {
    this.#reserve(p.length)
    this.#buf.set(p, this.#length)
    this.#length += p.length
    return this
  }

  /** Numbers may be beyond 32 bits, so they are divided and not shifted.
   * @param {number} n */
  varint(n) {
    for (; n >= 0x80; n = Math.floor(n / 0x80)) this.byte((n % 0x80) | 0x80)
    return this.byte(n)
  }

  /** A protobuf field that is a number.
   * @param {number} field
   * @param {number} n */
  number(field, n) {
    return this.byte(field << 3).varint(n)
  }

  /** A protobuf field that is bytes.
   * @param {number} field
   * @param {Uint8Array} p */
  field(field, p) {
    return this.byte((field << 3) | 2).varint(p.length).bytes(p)
  }

  /** Returns the bytes written, and resets the writer. */
  take() {
    const p = this.#buf.slice(0, this.#length)
    this.#length = 0
    return p
  }
}

/** Compares as Go and UnixFS do: byte by byte.
 * @param {Uint8Array} a
 * @param {Uint8Array} b */
export function compareBytes(a, b) {
  const n = Math.min(a.length, b.length)
  for (let i = 0; i < n; i++) {
    if (a[i] !== b[i]) return a[i] - b[i]
  }
  return a.length - b.length
}

const encoder = new TextEncoder()

/** @param {string} text */
export function utf8(text) {
  return encoder.encode(text)
}
