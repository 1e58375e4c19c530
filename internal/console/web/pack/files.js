// Dropped and picked files as inputs. A file stays a reference to the one on
// disk; this module reads only the lists of folders.

/** @typedef {import('./tree.js').Entry} Entry */
/** @typedef {import('./tree.js').Input} Input */

/** @typedef {object} Options
 * @property {boolean} [hidden] also take names that begin with a dot */

/** @param {string} name
 * @param {Options} options */
function wanted(name, { hidden = false }) {
  return hidden || !name.startsWith('.')
}

/** Dropped files and folders, an input for each. Call this while
 * handling the drop event: afterwards they are gone.
 * @param {DataTransfer} transfer
 * @param {Options} [options]
 * @returns {Promise<Input[]>} */
export function fromDrop(transfer, options = {}) {
  const dropped = Array.from(transfer.items, (item) => (item.kind === 'file' ? item.webkitGetAsEntry() : null))
  return Promise.all(dropped.filter((entry) => entry !== null).map(async (entry) => {
    if (!entry.isDirectory) return { name: entry.name, file: await fileOf(/** @type {FileSystemFileEntry} */ (entry)) }
    /** @type {Entry[]} */
    const entries = []
    await readEntry(/** @type {FileSystemDirectoryEntry} */ (entry), '', entries, options)
    return { name: entry.name, entries }
  }))
}

/** @param {FileSystemFileEntry} entry
 * @returns {Promise<File>} */
function fileOf(entry) {
  return new Promise((resolve, reject) => entry.file(resolve, reject))
}

/** @param {FileSystemDirectoryEntry} dir
 * @param {string} path of the folder with a slash, or empty
 * @param {Entry[]} entries
 * @param {Options} options */
async function readEntry(dir, path, entries, options) {
  const reader = dir.createReader()
  let empty = true
  for (;;) {
    // A folder comes in batches; the last one is empty.
    const batch = await new Promise((/** @type {(entries: FileSystemEntry[]) => void} */ resolve, reject) => reader.readEntries(resolve, reject))
    if (batch.length === 0) break
    for (const entry of batch) {
      if (!wanted(entry.name, options)) continue
      empty = false
      const at = path + entry.name
      if (entry.isDirectory) await readEntry(/** @type {FileSystemDirectoryEntry} */ (entry), at + '/', entries, options)
      else entries.push({ path: at, file: await fileOf(/** @type {FileSystemFileEntry} */ (entry)) })
    }
  }
  if (empty && path !== '') entries.push({ path: path.slice(0, -1), file: null })
}

/** Picked files, an input for each, or for each folder if the element
 * picks folders. Browsers don't report empty folders there.
 * @param {Iterable<File>} files
 * @param {Options} [options]
 * @returns {Input[]} */
export function fromPicker(files, options = {}) {
  /** @type {Input[]} */
  const inputs = []
  /** @type {Map<string, Entry[]>} */
  const folders = new Map()
  for (const file of files) {
    const [folder, ...rest] = file.webkitRelativePath.split('/')
    if (rest.length === 0) {
      inputs.push({ name: file.name, file })
      continue
    }
    let entries = folders.get(folder)
    if (!entries) {
      entries = []
      folders.set(folder, entries)
      inputs.push({ name: folder, entries })
    }
    if (rest.every((name) => wanted(name, options))) entries.push({ path: rest.join('/'), file })
  }
  return inputs
}

/** The input for a handle of the File System Access API.
 * @param {FileSystemHandle} handle
 * @param {Options} [options]
 * @returns {Promise<Input>} */
export async function fromHandle(handle, options = {}) {
  if (handle.kind === 'file') return { name: handle.name, file: await /** @type {FileSystemFileHandle} */ (handle).getFile() }
  /** @type {Entry[]} */
  const entries = []
  await readHandle(/** @type {FileSystemDirectoryHandle} */ (handle), '', entries, options)
  return { name: handle.name, entries }
}

/** @param {FileSystemDirectoryHandle} dir
 * @param {string} path
 * @param {Entry[]} entries
 * @param {Options} options */
async function readHandle(dir, path, entries, options) {
  let empty = true
  for await (const handle of dir.values()) {
    if (!wanted(handle.name, options)) continue
    empty = false
    const at = path + handle.name
    if (handle.kind === 'directory') await readHandle(/** @type {FileSystemDirectoryHandle} */ (handle), at + '/', entries, options)
    else entries.push({ path: at, file: await /** @type {FileSystemFileHandle} */ (handle).getFile() })
  }
  if (empty && path !== '') entries.push({ path: path.slice(0, -1), file: null })
}
