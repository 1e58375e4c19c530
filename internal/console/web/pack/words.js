// What people are told, in one place.

/** @type {Record<string, (about: any) => string>} */
export const words = {
  changed: ({ path }) => `“${path}” was changed, moved or closed to us while it was read. Choose it again.`,
  unreadable: ({ path }) => `“${path}” can't be read. It may have been moved, or you may not have the permission.`,
  name: ({ path, why }) => `“${path}” can't be uploaded under that name: ${why}.`,
  collision: ({ path, other }) => `“${path}” and “${other}” can't be in one large folder, since their names have the same hash. Rename one of them.`,
  deep: ({ path, limit }) => `“${path}” is more than ${limit} folders deep.`,
  empty: () => 'There is nothing to upload.',
  'too-big': ({ limit }) => `This is more than the ${limit} GiB that one upload can have.`,
  'block-too-large': ({ limit }) => `A block doesn't fit into a part of ${limit} bytes. Use a larger limit.`,
  'too-large': () => 'The service refuses a part of this size. Its limit is lower than ours.',
  unauthorized: () => 'The service does not know this key. It may have been revoked: sign in again.',
  forbidden: ({ detail }) => `The service does not allow this.${said(detail)}`,
  quota: ({ detail }) => `There is no room left for this key.${said(detail)}`,
  'disk-full': () => "The service's disk is full. Nothing was lost: go on when there is room.",
  maintenance: () => 'The service takes no uploads at the moment.',
  rate: () => 'The service asks for fewer requests, again and again.',
  network: () => 'The service can’t be reached. What arrived is kept: go on later.',
  service: ({ status, detail }) => `The service failed, again and again (${status}).${said(detail)}`,
  refused: ({ status, detail }) => `The service refused this (${status}).${said(detail)}`,
  'wrong-reply': () => 'What answered is not the service: a login page of the network, or a wrong address.',
  'root-mismatch': ({ root, other }) => `The service names another CID (${other}) than what was sent (${root}).`,
  incomplete: () => 'All was sent, but the service does not call it complete. Try again: only what is missing is sent.',
  busy: () => 'Another tab is sending this.',
  cancelled: () => 'The upload was cancelled.',
  storage: ({ detail }) => `The browser keeps nothing for us, so a closed tab begins anew.${said(detail)}`,
  bug: ({ detail }) => `This page has a fault: ${detail}`,
  workers: ({ detail }) => `The part of the page that computes CIDs could not be loaded.${said(detail)}`,
}

/** What the service said, if it said something.
 * @param {string|undefined} detail */
function said(detail) {
  return detail ? ` It says: ${detail}` : ''
}

/** Why a name can't be taken. */
export const nameFaults = {
  element: 'a part of the path is empty, “.” or “..”',
  nul: 'it has a zero character',
  unicode: 'it is no valid Unicode',
  twice: 'there are two of that name',
  file: 'a file of that name is in the way',
}
