// CIDs of version 1 with a SHA-256 digest, the only ones in use here.

export const DIGEST_BYTES = 32
export const CID_BYTES = 4 + DIGEST_BYTES

const codecRaw = 0x55
const codecDagPB = 0x70
const codecCAR = 0x0202

const alphabet = 'abcdefghijklmnopqrstuvwxyz234567'

/** @param {Uint8Array} p */
function base32(p) {
  let text = ''
  let bits = 0
  let value = 0
  for (const b of p) {
    value = (value << 8) | b
    for (bits += 8; bits >= 5; bits -= 5) text += alphabet[(value >>> (bits - 5)) & 31]
    value &= (1 << bits) - 1
  }
  return bits > 0 ? text + alphabet[(value << (5 - bits)) & 31] : text
}

/** A CID in binary: of a raw block, or of a node in dag-pb.
 * @param {boolean} raw
 * @param {Uint8Array} digest */
export function cidBytes(raw, digest) {
  const p = new Uint8Array(CID_BYTES)
  p.set([1, raw ? codecRaw : codecDagPB, 0x12, DIGEST_BYTES])
  p.set(digest, 4)
  return p
}

/** @param {Uint8Array} cid a CID in binary */
export function cidText(cid) {
  return 'b' + base32(cid)
}

/** The CID of a CAR file, as services list the parts of an upload.
 * @param {Uint8Array} digest */
export function carCIDText(digest) {
  const p = new Uint8Array(5 + DIGEST_BYTES)
  p.set([1, (codecCAR & 0x7f) | 0x80, codecCAR >> 7, 0x12, DIGEST_BYTES])
  p.set(digest, 5)
  return 'b' + base32(p)
}
