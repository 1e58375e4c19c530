// Package store keeps CAR files by their content. It accepts shards, knows when
// everything below a root is held, and serves the blocks. It also keeps the
// records of its users: keys, uploads and pins. It knows nothing about networks
// or the wording of an API; it reports what is wrong in typed errors.
//
// [Open] opens the store in a directory. [Store.Receive] checks a shard, and
// [Store.Accept] makes it part of the store.
//
// # What is on disk
//
// A shard is kept as it was received, in shards/ab/<CAR CID>.car. The store
// writes it under another name, syncs it, renames it, and syncs the directory.
// Only then does an SQLite transaction make it part of the store. So an
// acknowledged shard is durable, a file without a row was never acknowledged,
// and everything that the index says about blocks can be rebuilt from the
// files.
//
// A small shard is not synced by itself. Its bytes also go to a segment in
// journal/, and one sync makes all shards durable that arrived at the same
// time. Their files are synced later. After a crash, Open rewrites the files
// that were lost.
//
// # When a DAG is complete
//
// Completeness is recorded per inner node, not per upload: a node is complete
// when it is held and all its children are complete. A node counts its
// incomplete children, and each incomplete child knows its parents. Each link
// is counted once, when its parent arrives, and uncounted once, when its child
// becomes complete. So accepting a shard costs only what that shard holds,
// whatever arrived before it and in any order. An upload is complete when its
// root is.
package store
