// Where to get content.

/** A path of the gateway. Names may be anything that a directory allows.
 * @param {string} root @param {string[]} [names] */
export function gatewayPath(root, names = []) {
  return ['/ipfs', root, ...names.map(encodeURIComponent)].join('/')
}

/** The root on its own subdomain, if the service is reached by a host name.
 * @param {string} root */
export function subdomain(root) {
  if (!root.startsWith('b')) return null // host names ignore case
  const host = location.hostname
  if (/^[\d.]+$/.test(host) || host.startsWith('[')) {
    // Browsers resolve localhost and names below it to this machine.
    return host === '127.0.0.1' || host === '[::1]' ? `${location.protocol}//${root}.ipfs.localhost${port()}/` : null
  }
  return `${location.protocol}//${root}.ipfs.${host}${port()}/`
}

const port = () => (location.port ? ':' + location.port : '')

/** The path for an ipfs:// URL, or null for another URL. @param {unknown} url */
export function ipfsPath(url) {
  if (typeof url !== 'string') return null
  const m = /^ipfs:\/\/(?:ipfs\/)?([A-Za-z0-9]+)((?:\/.*)?)$/s.exec(url)
  if (!m) return null
  return gatewayPath(m[1], m[2].split('/').slice(1).map((p) => {
    try {
      return decodeURIComponent(p)
    } catch {
      return p
    }
  }))
}
