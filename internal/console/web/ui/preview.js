// Previews of files. Content is never part of this page: images and videos
// have their own elements, and everything else is plain text. An SVG in an
// image element runs no scripts, and text stays text.

import { h } from './dom.js'
import { bytes } from './format.js'
import { ipfsPath } from './links.js'
import { words } from './words.js'

const maxText = 128 << 10

const images = /\.(png|jpe?g|gif|webp|avif|svg|bmp|ico)$/i
const videos = /\.(mp4|m4v|webm|ogv|mov|mkv)$/i
const sounds = /\.(mp3|m4a|ogg|oga|opus|wav|flac)$/i

/** @param {HTMLElement} box @param {string} name @param {string} path @param {number} size @param {AbortSignal} signal */
export function preview(box, name, path, size, signal) {
  const w = words.preview
  const title = w.title(name)
  const failed = () => { if (!signal.aborted) body.replaceChildren(h('p', { class: 'muted' }, w.failed)) }
  const body = h('div', { class: 'body' })
  box.append(
    h('div', { class: 'preview-head' }, h('strong', { class: 'break' }, name), h('span', { class: 'muted' }, bytes(size)),
      h('a', { href: path, target: '_blank', rel: 'noopener noreferrer' }, words.tree.open),
      h('a', { href: path + (path.includes('?') ? '&' : '?') + 'download=true', download: name }, words.upload.download)),
    body)
  if (images.test(name)) body.append(h('img', { src: path, alt: title, onerror: failed }))
  else if (videos.test(name)) body.append(h('video', { src: path, controls: true, preload: 'metadata', 'aria-label': title, onerror: failed }))
  else if (sounds.test(name)) body.append(h('audio', { src: path, controls: true, preload: 'metadata', 'aria-label': title, onerror: failed }))
  else text(body, path, size, signal).catch(failed)
}

/** @param {HTMLElement} body @param {string} path @param {number} size @param {AbortSignal} signal */
async function text(body, path, size, signal) {
  const w = words.preview
  let data = new Uint8Array()
  if (size > 0) {
    const res = await fetch(path, { signal, credentials: 'omit', headers: { Range: `bytes=0-${maxText - 1}` } })
    if (!res.ok) throw new Error(res.statusText)
    data = new Uint8Array(await res.arrayBuffer())
  }
  if (data.includes(0)) {
    body.replaceChildren(h('p', { class: 'muted' }, w.none))
    return
  }
  const cut = data.length < size
  let content
  try {
    content = new TextDecoder('utf-8', { fatal: true }).decode(data, { stream: cut })
  } catch {
    body.replaceChildren(h('p', { class: 'muted' }, w.none))
    return
  }
  let parsed
  try {
    parsed = cut ? undefined : JSON.parse(content)
  } catch {
    // not JSON: plain text
  }
  if (parsed !== null && typeof parsed === 'object') content = JSON.stringify(parsed, null, 2)
  const source = h('pre', { tabindex: 0 }, content)
  const note = cut ? h('p', { class: 'muted' }, w.cut(bytes(data.length))) : null
  const nft = metadata(parsed)
  if (nft) body.replaceChildren(nft, h('details', null, h('summary', null, w.source), source))
  else body.replaceChildren(...(note ? [source, note] : [source]))
}

/** The metadata of an NFT, or null if this is none: ERC-721 and ERC-1155 have a
 * name, a description and an image.
 * @param {any} v */
function metadata(v) {
  const w = words.preview
  if (v === null || typeof v !== 'object' || Array.isArray(v) || typeof v.name !== 'string') return null
  if (typeof v.image !== 'string' && typeof v.description !== 'string') return null
  const image = ipfsPath(v.image)
  const traits = Array.isArray(v.attributes) ? v.attributes.slice(0, 200) : []
  return h('article', { class: 'nft', 'aria-label': w.nft },
    image ? h('img', { src: image, alt: v.name }) : null,
    h('div', null,
      h('p', { class: 'muted' }, w.nft), h('h3', { class: 'break' }, v.name),
      typeof v.description === 'string' ? h('p', { class: 'break' }, v.description) : null,
      !image && typeof v.image === 'string' ? h('p', { class: 'muted break' }, w.outside, ' ', v.image.slice(0, 300)) : null,
      traits.length ? h('table', null, h('thead', null, h('tr', null, h('th', null, w.trait), h('th', null, w.value))),
        h('tbody', null, traits.map((/** @type {any} */ t) => h('tr', null, h('td', null, String(t?.trait_type ?? '')), h('td', null, String(t?.value ?? '')))))) : null))
}
