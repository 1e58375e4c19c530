// Package service is NFT.Storage's HTTP API as a server of one's own: it takes
// CAR files and plain files from clients that speak that API, keeps them, says
// when a DAG is complete, and hands the blocks out again as a gateway.
//
// [Open] opens a store in a directory and [Service.Handler] serves it.
//
// # What is on disk
//
// A shard is kept as it was received, in shards/ab/<CAR CID>.car. It is written
// under another name, synced, renamed, and the directory synced, before one
// SQLite transaction makes it part of the store. So a shard that was
// acknowledged is durable, a file that no row names was never acknowledged, and
// all that is said of blocks can be worked out again from the files.
//
// # When a DAG is complete
//
// Completeness is kept per inner node, not per upload: a node is complete when
// it is held and all its children are complete. A node knows how many of its
// children are not, and each incomplete child knows its parents. Each link is
// counted once, when its parent comes, and taken off once, when its child is
// complete, so a shard costs what the shard holds, whatever came before it and
// in whatever order. An upload is pinned when its root is complete.
package service
