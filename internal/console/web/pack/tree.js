// The tree of an input: files and directories with their names, in the order in
// which their leaves are hashed.

import { PackError } from './errors.js'
import { Layout } from './layout.js'
import { utf8 } from './bytes.js'
import { nameFaults } from './words.js'

/** @typedef {import('./layout.js').Recipe} Recipe */

/** An entry of a directory to upload. A path has slashes; without
 * a file it is an empty directory.
 * @typedef {{path: string, file: File|null}} Entry */

/** Something to upload: a file, or a directory with its entries.
 * @typedef {{name: string, file: File}} FileInput
 * @typedef {{name: string, entries: Entry[]}} TreeInput
 * @typedef {FileInput|TreeInput} Input */

/** A file in the DAG. Digests of leaves are kept for all files together.
 * @typedef {object} FileNode
 * @property {'file'} kind
 * @property {string} path
 * @property {Uint8Array} name
 * @property {Blob} file
 * @property {Layout} layout
 * @property {number} firstLeaf of the leaves of all files
 * @property {Uint8Array} inner digests of the inner nodes */

/** A directory in the DAG.
 * @typedef {object} DirNode
 * @property {'directory'} kind
 * @property {string} path
 * @property {Uint8Array} name
 * @property {Node[]} children
 * @property {Uint8Array} digest of its block, when known
 * @property {number} size of its block
 * @property {number} tsize
 * @property {import('./hamt.js').Shard|null} shard its HAMT, if it is one */

/** @typedef {FileNode|DirNode} Node */

/** The greatest depth that all readers support. */
const maxDepth = 512

/** The largest upload that services of this kind accept. */
export const MAX_UPLOAD_GIB = 31

const noDigest = new Uint8Array(0)

/** The files and directories of an input, checked.
 * @param {Input} input
 * @param {Recipe} recipe
 * @returns {{root: Node, files: FileNode[], leaves: number, bytes: number}} */
export function makeTree(input, recipe) {
  /** @type {FileNode[]} */
  const files = []
  let leaves = 0
  let bytes = 0

  /** @param {string} path
   * @param {string} name
   * @param {Blob} file
   * @returns {FileNode} */
  const addFile = (path, name, file) => {
    const layout = new Layout(recipe, file.size)
    /** @type {FileNode} */
    const node = { kind: 'file', path, name: utf8(name), file, layout, firstLeaf: leaves, inner: noDigest }
    files.push(node)
    leaves += layout.leaves
    bytes += file.size
    return node
  }
  /** @param {string} path
   * @param {string} name
   * @returns {DirNode} */
  const makeDir = (path, name) => ({
    kind: 'directory', path, name: utf8(name), children: [], digest: noDigest, size: 0, tsize: 0, shard: null,
  })

  if ('file' in input) {
    const root = addFile(input.name, input.name, input.file)
    checkSize(bytes)
    return { root, files, leaves, bytes }
  }
  const root = makeDir('', '')
  /** @type {Map<string, Node>} by path */
  const nodes = new Map([['', /** @type {Node} */ (root)]])
  for (const { path, file } of input.entries) {
    const elements = path.split('/')
    checkPath(path, elements)
    let parent = root
    let at = ''
    elements.forEach((name, i) => {
      at = i === 0 ? name : `${at}/${name}`
      const last = i === elements.length - 1
      let node = nodes.get(at)
      if (!node) {
        node = last && file ? addFile(at, name, file) : makeDir(at, name)
        nodes.set(at, node)
        parent.children.push(node)
      } else if (last && file) {
        throw new PackError('name', { path, why: nameFaults.twice })
      }
      if (node.kind === 'directory') parent = node
      else if (!last) throw new PackError('name', { path, why: nameFaults.file })
      else if (!file) throw new PackError('name', { path, why: nameFaults.twice })
    })
  }
  checkSize(bytes)
  return { root, files, leaves, bytes }
}

/** @param {number} bytes */
function checkSize(bytes) {
  if (bytes > MAX_UPLOAD_GIB * 2 ** 30) throw new PackError('too-big', { limit: MAX_UPLOAD_GIB })
}

/** @param {string} path
 * @param {string[]} elements */
function checkPath(path, elements) {
  if (elements.some((e) => e === '' || e === '.' || e === '..')) throw new PackError('name', { path, why: nameFaults.element })
  if (path.includes('\0')) throw new PackError('name', { path, why: nameFaults.nul })
  if (!wellFormed(path)) throw new PackError('name', { path, why: nameFaults.unicode })
  if (elements.length > maxDepth) throw new PackError('deep', { path, limit: maxDepth })
}

/** Reports half a surrogate pair, which has no UTF-8 encoding and would change the name.
 * @param {string} text */
function wellFormed(text) {
  return !/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(text)
}
