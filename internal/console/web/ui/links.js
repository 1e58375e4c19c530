// Where content can be had.

/** A path of the gateway. Names are whatever they are in the directory.
 * @param {string} root @param {string[]} [names] */
export function gatewayPath(root, names = []) {
  return ['/ipfs', root, ...names.map(encodeURIComponent)].join('/')
}

/** The root under a name of its own, if the service is reached by one.
 * @param {string} root */
export function subdomain(root) {
  if (!root.startsWith('b')) return null // names have no capital letters
  const host = location.hostname
  if (/^[\d.]+$/.test(host) || host.startsWith('[')) {
    // Browsers lead localhost and what is below it to this machine.
    return host === '127.0.0.1' || host === '[::1]' ? `${location.protocol}//${root}.ipfs.localhost${port()}/` : null
  }
  return `${location.protocol}//${root}.ipfs.${host}${port()}/`
}

const port = () => (location.port ? ':' + location.port : '')

/** A path for a URL of IPFS, null if it is another. @param {unknown} url */
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
