// MurmurHash3 x64. A HAMT uses the first 64 of its 128 bits. Only names are
// hashed, so big integers are fast enough.

const mask = (1n << 64n) - 1n
const c1 = 0x87c37b91114253d5n
const c2 = 0x4cf5ad432745937fn

/** @param {bigint} x
 * @param {bigint} n */
const rotate = (x, n) => ((x << n) | (x >> (64n - n))) & mask

/** @param {bigint} k */
function finish(k) {
  k = ((k ^ (k >> 33n)) * 0xff51afd7ed558ccdn) & mask
  k = ((k ^ (k >> 33n)) * 0xc4ceb9fe1a85ec53n) & mask
  return k ^ (k >> 33n)
}

/** @param {bigint} k */
const mix1 = (k) => (rotate((k * c1) & mask, 31n) * c2) & mask
/** @param {bigint} k */
const mix2 = (k) => (rotate((k * c2) & mask, 33n) * c1) & mask

/** The hash of a name in 8 bytes, the highest first: a HAMT takes a bucket from
 * each of them in turn.
 * @param {Uint8Array} name */
export function nameHash(name) {
  const full = name.length - (name.length % 16)
  const view = new DataView(name.buffer, name.byteOffset, name.length)
  let h1 = 0n
  let h2 = 0n
  for (let i = 0; i < full; i += 16) {
    h1 ^= mix1(view.getBigUint64(i, true))
    h1 = (((rotate(h1, 27n) + h2) & mask) * 5n + 0x52dce729n) & mask
    h2 ^= mix2(view.getBigUint64(i + 8, true))
    h2 = (((rotate(h2, 31n) + h1) & mask) * 5n + 0x38495ab5n) & mask
  }
  let k1 = 0n
  let k2 = 0n
  for (let i = name.length - 1; i >= full; i--) {
    if (i - full >= 8) k2 = (k2 << 8n) | BigInt(name[i])
    else k1 = (k1 << 8n) | BigInt(name[i])
  }
  h1 ^= mix1(k1)
  h2 ^= mix2(k2)
  h1 ^= BigInt(name.length)
  h2 ^= BigInt(name.length)
  h1 = (h1 + h2) & mask
  h2 = (h2 + h1) & mask
  h1 = finish(h1)
  h2 = finish(h2)
  const hash = new Uint8Array(8)
  new DataView(hash.buffer).setBigUint64(0, (h1 + h2) & mask)
  return hash
}
