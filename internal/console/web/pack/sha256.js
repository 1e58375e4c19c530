// SHA-256 of a stream. WebCrypto hashes only data that is in memory as a whole, which
// is fine for leaves; this module hashes an archive of 100 MB piece by piece.
// That is several times slower, and needed only to find out which
// archives a service already has.

const k = new Int32Array(64)
const initial = new Int32Array(8)
{
  // The first bits of the fractional parts of roots of primes.
  /** @param {number} x */
  const fraction = (x) => ((x - Math.floor(x)) * 2 ** 32) | 0
  let count = 0
  for (let n = 2; count < 64; n++) {
    let prime = true
    for (let d = 2; d * d <= n; d++) prime &&= n % d !== 0
    if (!prime) continue
    if (count < 8) initial[count] = fraction(Math.sqrt(n))
    k[count++] = fraction(Math.cbrt(n))
  }
}

export class SHA256 {
  #state = initial.slice()
  #w = new Int32Array(64)
  #rest = new Uint8Array(64)
  #restLength = 0
  #length = 0

  /** @param {Uint8Array} p */
  update(p) {
    this.#length += p.length
    let at = 0
    if (this.#restLength > 0) {
      at = Math.min(64 - this.#restLength, p.length)
      this.#rest.set(p.subarray(0, at), this.#restLength)
      this.#restLength += at
      if (this.#restLength < 64) return this
      this.#block(this.#rest, 0)
      this.#restLength = 0
    }
    for (; at + 64 <= p.length; at += 64) this.#block(p, at)
    this.#rest.set(p.subarray(at))
    this.#restLength = p.length - at
    return this
  }

  digest() {
    const length = this.#length
    const padding = new Uint8Array(((this.#restLength < 56 ? 56 : 120) - this.#restLength) + 8)
    padding[0] = 0x80
    const view = new DataView(padding.buffer)
    view.setUint32(padding.length - 8, Math.floor(length / 2 ** 29))
    view.setUint32(padding.length - 4, (length << 3) >>> 0)
    this.update(padding)
    const out = new Uint8Array(32)
    const words = new DataView(out.buffer)
    this.#state.forEach((v, i) => words.setInt32(4 * i, v))
    return out
  }

  /** @param {Uint8Array} p
   * @param {number} at */
  #block(p, at) {
    const w = this.#w
    for (let i = 0; i < 16; i++, at += 4) w[i] = (p[at] << 24) | (p[at + 1] << 16) | (p[at + 2] << 8) | p[at + 3]
    for (let i = 16; i < 64; i++) {
      const x = w[i - 15]
      const y = w[i - 2]
      const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3)
      const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10)
      w[i] = (w[i - 16] + s0 + w[i - 7] + s1) | 0
    }
    const s = this.#state
    let [a, b, c, d, e, f, g, h] = s
    for (let i = 0; i < 64; i++) {
      const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7))
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + k[i] + w[i]) | 0
      const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10))
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0
      h = g
      g = f
      f = e
      e = (d + t1) | 0
      d = c
      c = b
      b = a
      a = (t1 + t2) | 0
    }
    s[0] += a
    s[1] += b
    s[2] += c
    s[3] += d
    s[4] += e
    s[5] += f
    s[6] += g
    s[7] += h
  }
}
