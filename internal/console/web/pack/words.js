// All messages for people, in one place.

/** @type {Record<string, (about: any) => string>} */
export const words = {
  changed: ({ path }) => `“${path}” was changed, moved or locked while the browser read it. Choose it again.`,
  unreadable: ({ path }) => `“${path}” can't be read. Someone may have moved it, or you may lack permission.`,
  name: ({ path, why }) => `“${path}” can't be uploaded under that name: ${why}.`,
  collision: ({ path, other }) => `“${path}” and “${other}” can't be in one large folder, because their names have the same hash. Rename one of them.`,
  deep: ({ path, limit }) => `“${path}” is more than ${limit} folders deep.`,
  empty: () => 'There is nothing to upload.',
  'too-big': ({ limit }) => `This is larger than ${limit} GiB, the limit of one upload.`,
  'block-too-large': ({ limit }) => `A block does not fit into a shard of ${limit} bytes. Use a larger limit.`,
  'too-large': () => 'The service refused a shard of this size. Its limit is lower than ours.',
  unauthorized: () => 'The service does not accept this key. Someone may have revoked it: sign in again.',
  forbidden: ({ detail }) => `The service does not allow this.${said(detail)}`,
  quota: ({ detail }) => `This key has no space left.${said(detail)}`,
  'disk-full': () => "The disk of the service is full. Nothing is lost: resume when there is room.",
  maintenance: () => 'The service accepts no uploads at the moment.',
  rate: () => 'The service keeps asking for fewer requests.',
  network: () => 'Can’t reach the service. It keeps what has arrived: resume later.',
  service: ({ status, detail }) => `The service kept failing (${status}).${said(detail)}`,
  refused: ({ status, detail }) => `The service refused this (${status}).${said(detail)}`,
  'wrong-reply': () => 'The answer is not from the service: perhaps from a login page of the network, or the address is wrong.',
  'root-mismatch': ({ root, other }) => `The service returned another CID (${other}) than the one that was sent (${root}).`,
  incomplete: () => 'Everything was sent, but the service reports it incomplete. Try again: only what is missing will be sent.',
  busy: () => 'Another tab is sending this.',
  cancelled: () => 'The upload was cancelled.',
  storage: ({ detail }) => `The browser can’t store anything for this page, so an upload starts over if you close the tab.${said(detail)}`,
  bug: ({ detail }) => `This page has a bug: ${detail}`,
  workers: ({ detail }) => `Could not load the part of the page that computes CIDs.${said(detail)}`,
}

/** The message of the service, if there is one.
 * @param {string|undefined} detail */
function said(detail) {
  return detail ? ` It says: ${detail}` : ''
}

/** Why a name is invalid. */
export const nameFaults = {
  element: 'a part of the path is empty, “.” or “..”',
  nul: 'it contains a zero character',
  unicode: 'it is not valid Unicode',
  twice: 'there are two with that name',
  file: 'a file with that name is in the way',
}
