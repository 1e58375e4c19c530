// The identity of an input, to recognize it later: names, sizes, dates
// and the recipe. It does not depend on the content; the digests do.

import { SHA256 } from './sha256.js'
import { recipeText } from './layout.js'
import { utf8 } from './bytes.js'

/** @typedef {import('./tree.js').Input} Input */

/** An input in the ledger.
 * @typedef {object} Identity
 * @property {string} key
 * @property {string} name
 * @property {'file'|'directory'} kind
 * @property {number} bytes
 * @property {number} files
 * @property {number} lastModified of the newest file, in milliseconds */

/** @param {Input} input
 * @param {import('./layout.js').Recipe} recipe
 * @returns {Identity} */
export function identify(input, recipe) {
  const kind = 'file' in input ? 'file' : 'directory'
  const entries = 'file' in input ? [{ path: '', file: input.file }] : input.entries
  const sorted = [...entries].sort((a, b) => (a.path < b.path ? -1 : 1))
  // Lengths come first, so that no two inputs have the same encoding.
  const hash = new SHA256().update(utf8(JSON.stringify([recipeText(recipe), kind, input.name, sorted.length])))
  let bytes = 0
  let files = 0
  let lastModified = 0
  for (const { path, file } of sorted) {
    hash.update(utf8(JSON.stringify([path, file?.size ?? -1, file?.lastModified ?? 0])))
    if (!file) continue
    files++
    bytes += file.size
    lastModified = Math.max(lastModified, file.lastModified)
  }
  const key = Array.from(hash.digest(), (b) => b.toString(16).padStart(2, '0')).join('')
  return { key, name: input.name, kind, bytes, files, lastModified }
}
